"""A connection that carries nothing any more, and does not break: as when a cable is pulled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from segue.sdk.client import Client
from tests.sdk.fake_router import FakeRouter, serving_on
from tests.sdk.test_resuming import WHOLE, end_of, events_of, tokens_in


class Cable:
    """Carries bytes between clients and a server, until it is cut. Later connections are fine."""

    def __init__(self, server: str) -> None:
        self._host, _, port = server.rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """Both ends stay open."""
        for task in self._tasks:
            task.cancel()

    @contextlib.asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        """Its address."""
        listening = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        host, port = listening.sockets[0].getsockname()[:2]
        try:
            yield f"{host}:{port}"
        finally:
            self.cut()
            for writer in self._writers:
                writer.close()
            listening.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, to_writer]
        for one, other in ((reader, to_writer), (to_reader, writer)):
            self._tasks.add(asyncio.ensure_future(_carry(one, other)))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while octets := await reader.read(1 << 16):
        writer.write(octets)
        await writer.drain()
    writer.close()


@pytest.mark.slow
async def test_a_turn_goes_on_after_keepalive_has_noticed() -> None:
    router = FakeRouter(dies_after=[5], hangs=True)
    async with serving_on(router) as address:
        cable = Cable(address)
        async with cable.laid() as through, Client(through) as client:
            turn = asyncio.ensure_future(events_of(client, within_s=60.0))
            async with asyncio.timeout(10):
                while not router.asked:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            began_at = time.monotonic()
            cable.cut()
            events = await turn

    assert tokens_in(events) == WHOLE
    assert end_of(events).usage.resumed == 1
    # A ping every 10 s, 5 s for its answer.
    assert time.monotonic() - began_at < 25
    assert [len(request.resume.token_ids) for request in router.asked] == [0, 5]
