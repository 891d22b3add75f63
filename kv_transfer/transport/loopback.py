"""A transport within one process, for tests: a memcpy that fails, blocks or corrupts on command."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence

from kv_transfer.config import TransferConfig
from kv_transfer.transport.transport import Transport, paced
from kv_transfer.writing.plan import Fragment
from segue.api.errors import TransferFailed


class LoopbackNetwork:
    """Processes that reach each other, by segment name, and the faults to inject between them."""

    def __init__(self) -> None:
        self.regions: dict[str, list[range]] = {}
        self.written: list[tuple[Fragment, ...]] = []
        """Every batch passed to `write`, in order."""
        self._may_move = threading.Event()
        self._may_move.set()
        self._is_holding = threading.Event()
        self._failing = 0
        self._corrupting = 0
        self._numbers = itertools.count()

    def fail_next(self, num_writes: int = 1) -> None:
        """The next writes raise TransferFailed after half of their fragments have arrived."""
        self._failing = num_writes

    def corrupt_next(self, num_writes: int = 1) -> None:
        """The next writes arrive with one byte changed."""
        self._corrupting = num_writes

    def hold(self) -> None:
        """Writes do not return until `release`."""
        self._is_holding.clear()
        self._may_move.clear()

    def wait_until_held(self, timeout_s: float) -> bool:
        """Whether a write has started since `hold` and is in flight."""
        return self._is_holding.wait(timeout_s)

    def release(self) -> None:
        self._may_move.set()

    def disconnect(self, segment: str) -> None:
        """The process is gone: writes to it fail."""
        self.regions.pop(segment, None)

    def open(self, config: TransferConfig, *, host: str, device: str) -> Transport:
        """`OpenTransport` for workers in this process. Each gets its own segment name."""
        transport = LoopbackTransport(self, f"loopback-{next(self._numbers)}")
        return paced(transport, config.max_gbit_per_s)

    def move(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        self.written.append(tuple(fragments))
        if not self._may_move.is_set():
            self._is_holding.set()
            self._may_move.wait()
        fails = self._failing > 0
        self._failing = max(0, self._failing - 1)
        for fragment in fragments[: len(fragments) // 2] if fails else fragments:
            self._require_registered(target_segment, fragment)
            ctypes.memmove(fragment.target_address, fragment.source_address, fragment.num_bytes)
        if fails:
            raise _failed(target_segment, fragments, "failed on command")
        if self._corrupting > 0:
            self._corrupting -= 1
            first = ctypes.c_ubyte.from_address(fragments[0].target_address)
            first.value ^= 0xFF

    def _require_registered(self, target_segment: str, fragment: Fragment) -> None:
        if target_segment not in self.regions:
            raise _failed(target_segment, [fragment], "no such segment")
        last = fragment.target_address + fragment.num_bytes - 1
        for region in self.regions[target_segment]:
            if fragment.target_address in region and last in region:
                return
        raise _failed(target_segment, [fragment], "not registered there")


class LoopbackTransport:
    """One process of the network. Satisfies `Transport`."""

    def __init__(self, network: LoopbackNetwork, segment: str) -> None:
        self._network = network
        self.segment = segment
        network.regions[segment] = []

    def register(self, address: int, num_bytes: int) -> None:
        self._network.regions[self.segment].append(range(address, address + num_bytes))

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        self._network.move(target_segment, fragments)

    def disconnect(self, target_segment: str) -> None:
        """There are no connections."""

    def close(self) -> None:
        self._network.disconnect(self.segment)


def _failed(target_segment: str, fragments: Sequence[Fragment], why: str) -> TransferFailed:
    num_bytes = sum(fragment.num_bytes for fragment in fragments)
    return TransferFailed(f"{num_bytes} bytes to {target_segment}: {why}")
