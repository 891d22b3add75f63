"""A writer keeps no connections to processes that have died."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.transport.mooncake import MooncakeTransport
from kv_transfer.transport.transport import Transport
from kv_transfer.writing.plan import Fragment
from segue.api.types import Epoch, WorkerId
from tests.faults.cluster.sockets import abandoned_by_peer
from tests.kv_transfer.pair import Pair
from tests.kv_transfer.world import ship_all

NUM_BYTES = 1 << 16


@contextlib.contextmanager
def written_to(writer: Transport, source: int) -> Iterator[str]:
    """A peer's segment. It has received a write, and is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kv_transfer.mooncake_peer"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as peer:
        try:
            assert peer.stdout is not None
            segment, address = peer.stdout.readline().split()
            writer.write(segment, [Fragment(source, int(address), NUM_BYTES)])
            yield segment
        finally:
            peer.kill()


def num_abandoned(at_least: int) -> int:
    """Connections of this process to processes that have ended; the kernel needs a moment."""
    ends_at = time.monotonic() + 2.0
    while (number := len(abandoned_by_peer([os.getpid()]))) < at_least:
        if time.monotonic() > ends_at:
            break
        time.sleep(0.01)
    return number


@pytest.mark.parametrize("num_deaths", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_peer_that_died_leaves_no_socket_behind(num_deaths: int) -> None:
    source = (ctypes.c_ubyte * NUM_BYTES)()
    before = num_abandoned(0)
    with contextlib.closing(MooncakeTransport(TransferConfig())) as writer:
        writer.register(ctypes.addressof(source), NUM_BYTES)
        for _ in range(num_deaths):
            with written_to(writer, ctypes.addressof(source)) as segment:
                pass
            assert num_abandoned(before + 1) > before, "Mooncake closes them itself now"
            writer.disconnect("a peer that it never wrote to")
            assert num_abandoned(before + 1) > before

            writer.disconnect(segment)
            assert num_abandoned(0) == before


@pytest.fixture
def left(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The segments from which the writer's transport was disconnected."""
    left: list[str] = []
    monkeypatch.setattr(pair.source.transport, "disconnect", left.append)
    return left


ALIVE = {WorkerId("decode-0"): Epoch(1)}


@pytest.mark.parametrize("members", [{}, {WorkerId("decode-0"): Epoch(2)}])
async def test_a_writer_leaves_a_reader_that_is_gone(
    pair: Pair, left: list[str], members: dict[WorkerId, Epoch]
) -> None:
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)
    await outgoing.finish()
    pair.writer.members_changed(ALIVE)
    pair.writer.members_changed(members)
    pair.writer.members_changed(members)
    pair.writer.close()

    assert left == [*outgoing.target_segments]


async def test_it_leaves_only_when_no_handoff_to_it_is_open(pair: Pair, left: list[str]) -> None:
    pair.writer.members_changed(ALIVE)
    outgoing = pair.start()
    pair.writer.members_changed({})
    assert left == []

    await outgoing.stop("its reader died")
    pair.writer.close()
    assert left == [*outgoing.target_segments]
