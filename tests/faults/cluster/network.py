"""A TCP proxy in front of each process, which can break the connections of one pair of processes.

A process listens on 127.0.0.1 and announces 127.0.0.2, where the proxy listens on the same port.
The other end of a connection is known by the process that owns its socket. Mooncake's own
connections do not pass through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from segue.wire.addresses import Hosts

LISTEN, ANNOUNCE = "127.0.0.1", "127.0.0.2"
_CHUNK_BYTES = 1 << 16
# Closing a socket with this sends a reset.
_AT_ONCE = struct.pack("ii", 1, 0)

Pair = frozenset[str]


def pair_of(one: str, other: str) -> Pair:
    return frozenset((one, other))


def front_of(port: int) -> str:
    """The address at which others reach a process that listens on `port`."""
    return Hosts(LISTEN, ANNOUNCE).at(port)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection through the proxy."""

    pair: Pair
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    task: asyncio.Task[None]
    is_silent: bool = False
    """Nothing passes any more, not even its end."""
    num_ended: int = 0
    """How many of the two processes have closed it."""
    duplicating: set[asyncio.StreamWriter] = field(default_factory=set)
    """The ends whose next bytes arrive twice."""

    def reset(self) -> None:
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()


class Network:
    """The proxies of a cluster. One event loop owns it."""

    def __init__(self, name_at: Callable[[tuple[str, int]], str]) -> None:
        """`name_at`: the name of the process that has a socket with this local address."""
        self._name_at = name_at
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self._flowing: dict[Pair, asyncio.Event] = {}
        """For each pair that is cut; set when its bytes may pass again."""
        self._late_s: dict[Pair, float] = {}

    async def front(self, name: str, port: int) -> None:
        """Serves 127.0.0.2:port for the process `name`, which listens on 127.0.0.1:port."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Python 3.11 prints a traceback for a handler that is cancelled.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer, name, port)
            writer.close()

        self._servers.append(await asyncio.start_server(accept, ANNOUNCE, port))

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, port: int
    ) -> None:
        pair = pair_of(self._name_at(writer.get_extra_info("peername")), name)
        await self._may_pass(pair)
        back_reader, back_writer = await asyncio.open_connection(LISTEN, port)
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        link = _Link(pair, (writer, back_writer), task)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, back_writer))
                pumps.create_task(self._pump(link, back_reader, writer))
        finally:
            self._links.discard(link)
            back_writer.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._may_pass(link.pair)
                if late_s := self._late_s.get(link.pair):
                    await asyncio.sleep(late_s)
                if link.is_silent:
                    continue
                if writer in link.duplicating:
                    link.duplicating.discard(writer)
                    writer.write(data)
                writer.write(data)
                await writer.drain()
        link.num_ended += 1
        if link.is_silent:
            # The other end does not learn of it. `end_silent` ends this.
            await asyncio.Event().wait()
        await self._may_pass(link.pair)
        # A whole connection ends: gRPC closes none halfway.
        for end in link.writers:
            end.close()

    async def _may_pass(self, pair: Pair) -> None:
        while (flowing := self._flowing.get(pair)) is not None:
            await flowing.wait()

    def _links_of(self, pair: Pair) -> list[_Link]:
        return [link for link in self._links if link.pair == pair]

    def cut(self, pair: Pair) -> None:
        """Bytes between the two stand still, as on a line without a signal, until `mend`."""
        self._flowing.setdefault(pair, asyncio.Event())

    def delay(self, pair: Pair, seconds: float) -> None:
        self._late_s[pair] = seconds

    def mend(self, pair: Pair) -> None:
        self._late_s.pop(pair, None)
        if (flowing := self._flowing.pop(pair, None)) is not None:
            flowing.set()

    def silence(self, pair: Pair) -> None:
        """The pair's present connections carry nothing any more. New ones do."""
        for link in self._links_of(pair):
            link.is_silent = True

    def reset(self, pair: Pair) -> None:
        for link in self._links_of(pair):
            link.reset()

    def duplicate(self, pair: Pair) -> None:
        """The next bytes of the pair's present connections arrive twice, in both directions."""
        for link in self._links_of(pair):
            link.duplicating.update(link.writers)

    def num_silent(self) -> int:
        """Silent connections that at least one process still has open."""
        return sum(link.is_silent and link.num_ended < 2 for link in self._links)

    def end_silent(self) -> None:
        for link in list(self._links):
            if link.is_silent:
                link.reset()
                link.task.cancel()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.reset()
            link.task.cancel()
