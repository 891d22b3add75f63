"""How the HTTP server ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvicorn

from segue.gateway.config import GatewayConfig
from segue.gateway.http.protocol import Protocol
from segue.gateway.serving.http_server import HttpServer, listening

REQUEST = b"GET / HTTP/1.1\r\nhost: segue\r\n\r\n"
Answer = Callable[[Callable[[bytes, bool], Awaitable[None]]], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[HttpServer, asyncio.Task[None], int]]:
    """A server whose every answer is what `answer` says."""

    async def app(scope: object, receive: object, send: Callable[..., Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

        async def say(body: bytes, more: bool) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await answer(say)

    config = uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None)
    server = HttpServer(config)
    with contextlib.closing(listening(GatewayConfig(port=0))) as listener:
        task = asyncio.create_task(server.serve([listener]))
        async with asyncio.timeout(5):
            while not server.started:
                await asyncio.sleep(0.001)
        yield server, task, listener.getsockname()[1]


async def asked(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """After the first piece of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    await reader.readuntil(b"first")
    return reader, writer


async def test_a_process_that_stood_still_has_the_rest_of_its_time() -> None:
    async def answer(say: Callable[[bytes, bool], Awaitable[None]]) -> None:
        await say(b"first", True)
        await asyncio.sleep(1.2)
        await say(b"last", False)

    async with serving(answer) as (server, task, port):
        reader, writer = await asked(port)
        drain = asyncio.create_task(server.drain(task, 1.0))
        await asyncio.sleep(0.2)
        # As SIGSTOP would: nothing of the process goes on.
        time.sleep(1.1)
        await drain

        assert b"last" in await reader.read()
        writer.close()


@pytest.mark.parametrize("is_read", [True, False])
async def test_what_does_not_end_is_cut_off(
    is_read: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(say: Callable[[bytes, bool], Awaitable[None]]) -> None:
        await say(b"first", True)
        while True:
            await say(b"and so on" * 100_000, True)
            await asyncio.sleep(0.001)

    async with serving(answer) as (server, task, port):
        reader, writer = await asked(port)
        reading = asyncio.create_task(reader.read()) if is_read else None

        async with asyncio.timeout(5):
            await server.drain(task, 0.3)

        assert caplog.messages.count("requests did not end in time") == 1
        if reading is not None:
            assert not (await reading).endswith(b"0\r\n\r\n")
        writer.close()
