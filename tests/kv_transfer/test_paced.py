from __future__ import annotations

import ctypes

import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.transport.loopback import LoopbackNetwork, LoopbackTransport
from kv_transfer.transport.transport import PacedTransport
from kv_transfer.writing.plan import Fragment
from segue.api.errors import InvalidConfig

NUM_BYTES = 1000


class Times:
    """A clock that advances only by sleeping, and by `write_s` per write."""

    def __init__(self, write_s: float) -> None:
        self.now = 0.0
        self.write_s = write_s
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class SlowTransport(LoopbackTransport):
    def __init__(self, network: LoopbackNetwork, times: Times) -> None:
        super().__init__(network, "slow")
        self._times = times

    def write(self, target_segment: str, fragments: list[Fragment]) -> None:  # type: ignore[override]  # a list is enough here
        super().write(target_segment, fragments)
        self._times.now += self._times.write_s


@pytest.mark.parametrize(("write_s", "slept"), [(0.0, [10.0]), (4.0, [6.0]), (12.0, [])])
def test_a_write_takes_as_long_as_its_bytes_allow_and_no_longer(
    write_s: float, slept: list[float]
) -> None:
    times, network = Times(write_s), LoopbackNetwork()
    transport = SlowTransport(network, times)
    memory = (ctypes.c_char * (2 * NUM_BYTES))(*(b"x" * NUM_BYTES))
    transport.register(ctypes.addressof(memory), 2 * NUM_BYTES)
    paced = PacedTransport(transport, bytes_per_s=100, clock=times.clock, sleep=times.sleep)

    start = ctypes.addressof(memory)
    paced.write(paced.segment, [Fragment(start, start + NUM_BYTES, NUM_BYTES)])

    assert times.slept == slept
    assert memory.raw == b"x" * 2 * NUM_BYTES


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="max_gbit_per_s must be >= 0"):
        TransferConfig(max_gbit_per_s=-1)
