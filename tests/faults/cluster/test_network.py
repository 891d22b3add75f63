"""The proxy that faults break: which bytes pass, and what each end observes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from segue.wire.server import free_port
from tests.faults.cluster.network import ANNOUNCE, LISTEN, Network, pair_of

PAIR = pair_of("client", "server")


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[tuple[Network, int]]:
    """A server that sends back what it gets, behind a proxy."""
    port = free_port(LISTEN, 0)

    async def send_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(send_back, LISTEN, port)
    network = Network(lambda local: "client")
    await network.front("server", port)
    yield network, port
    await network.close()
    server.close()


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(ANNOUNCE, port)
    await echoed(reader, writer, b"first")
    return reader, writer


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    assert await reader.readexactly(len(data)) == data


async def test_bytes_of_a_cut_pair_stand_still_and_then_arrive(
    echo: tuple[Network, int],
) -> None:
    network, port = echo
    reader, writer = await connected(port)

    network.cut(PAIR)
    writer.write(b"second")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    network.mend(PAIR)

    assert await reader.readexactly(6) == b"second"
    writer.close()


async def test_a_pair_that_is_not_cut_is_not_disturbed(echo: tuple[Network, int]) -> None:
    network, port = echo
    network.cut(pair_of("other", "server"))

    _, writer = await connected(port)

    writer.close()


async def test_a_reset_connection_ends_and_the_next_one_works(echo: tuple[Network, int]) -> None:
    network, port = echo
    reader, _ = await connected(port)

    network.reset(PAIR)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)

    _, writer = await connected(port)
    writer.close()


async def test_a_half_open_connection_ends_at_neither_side(echo: tuple[Network, int]) -> None:
    network, port = echo
    reader, writer = await connected(port)

    network.silence(PAIR)
    writer.write(b"second")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    assert network.num_silent() == 1

    network.end_silent()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    await asyncio.sleep(0)
    assert network.num_silent() == 0


async def test_duplicated_bytes_arrive_twice_once(echo: tuple[Network, int]) -> None:
    network, port = echo
    reader, writer = await connected(port)

    network.duplicate(PAIR)
    writer.write(b"second")

    # Twice on the way there, and the first part of the answer twice on the way back.
    assert (await reader.readexactly(18)).startswith(b"secondsecond")
    writer.close()
