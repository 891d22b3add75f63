"""Sees every byte between a server and those who dial it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

PROXY_HOST = "127.0.0.2"


class Seen(bytearray):
    """The bytes of all connections, in both directions."""

    num_connections = 0


@contextlib.asynccontextmanager
async def seeing(port: int) -> AsyncIterator[Seen]:
    """Forwards `PROXY_HOST:port` to 127.0.0.1 at the same port: a process that announces the
    proxy's host is reached through it.
    """
    seen = Seen()
    running: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(1 << 16):
                seen.extend(octets)
                writer.write(octets)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        seen.num_connections += 1
        with contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(forward(reader, there_writer), forward(there_reader, writer))
        writer.close()
        running.discard(task)

    server = await asyncio.start_server(accept, PROXY_HOST, port)
    try:
        yield seen
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
