"""A client's turns over one stream: each ends by itself, and does not end others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest

from segue import Client, TextInput
from segue.api.errors import DeadlineExceeded, InvalidRequest, Overloaded, SegueError, Unavailable
from segue.api.turn import FinishReason, TokenDelta, TurnEnd
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import (
    SessionsServicer,
    SessionsStub,
    add_SessionsServicer_to_server,
)
from segue.wire.channel import channel_to
from segue.wire.convert.events import events_to_wire
from segue.wire.error_details import error_from_wire
from segue.wire.server import serving
from segue.wire.streams.generate_many import generate_many

END = TurnEnd(finish_reason=FinishReason.STOP)


class Echo(SessionsServicer):
    """Answers a text with itself; some texts are instructions."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.num_streams = 0
        self.num_messages = 0
        self.alone: list[int] = []
        self.timeouts: list[float | None] = []
        self.left: list[str] = []

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateEvent]:
        self.alone.append(len(request.text))
        yield events_to_wire([TokenDelta(token_ids=(1,), text="alone"), END])

    async def GenerateMany(
        self, request_iterator: AsyncIterator[pb.GenerateManyCommands], context: Any
    ) -> AsyncIterator[pb.GenerateManyEvents]:
        async def counted() -> AsyncIterator[pb.GenerateManyCommands]:
            async for message in request_iterator:
                self.num_messages += 1
                yield message

        self.num_streams += 1
        async with contextlib.aclosing(generate_many(counted(), self._answer)) as messages:
            async for message in messages:
                yield message

    async def _answer(
        self, request: pb.GenerateRequest, timeout_s: float | None, api_key: str
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        text = request.text
        self.timeouts.append(timeout_s)
        if text == "overloaded":
            raise Overloaded.after("full", retry_after_s=2.5)
        if text == "bug":
            raise ZeroDivisionError("a bug")
        yield events_to_wire([TokenDelta(token_ids=(1,), text=f"{text},")])
        try:
            if text == "wait":
                await self.go.wait()
            if text == "endless":
                await asyncio.Event().wait()
        finally:
            self.left.append(text)
        yield events_to_wire([TokenDelta(token_ids=(2,), text=text), END])


@contextlib.asynccontextmanager
async def served(router: Echo, port: int = 0) -> AsyncIterator[str]:
    def add(server: Any) -> None:
        add_SessionsServicer_to_server(router, server)

    async with serving(
        "127.0.0.1", port, lambda address: [("segue.v1.Sessions", add)], grace_s=0.0
    ) as server:
        yield server.address


@pytest.fixture
async def router() -> Echo:
    return Echo()


@pytest.fixture
async def client(router: Echo) -> AsyncIterator[Client]:
    async with served(router) as address, Client(address) as client:
        yield client


async def answer(client: Client, text: str, **options: Any) -> str:
    async with asyncio.timeout(10):
        return (await client.generate(TextInput(text), **options)).text


async def failure(client: Client, text: str, **options: Any) -> SegueError:
    with pytest.raises(SegueError) as failed:
        await answer(client, text, **options)
    return failed.value


async def until(done: Any) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.01)


async def test_many_turns_share_a_stream_and_few_messages(client: Client, router: Echo) -> None:
    texts = [f"t{number}" for number in range(50)]

    answers = await asyncio.gather(*(answer(client, text) for text in texts))

    assert answers == [f"{text},{text}" for text in texts]
    assert (router.num_streams, router.alone) == (1, [])
    assert router.num_messages < 10


async def test_an_error_ends_only_its_turn(client: Client, router: Echo) -> None:
    waiting = asyncio.ensure_future(answer(client, "wait"))

    overloaded, bug = await failure(client, "overloaded"), await failure(client, "bug")
    late = await failure(client, "x", timeout_s=-1.0)
    router.go.set()

    assert type(overloaded) is Overloaded
    assert (str(overloaded), overloaded.retry_after_s) == ("full", 2.5)
    assert "ZeroDivisionError: a bug (a bug; see the log)" in str(bug)
    assert type(late) is DeadlineExceeded
    assert await waiting == "wait,wait"
    assert router.num_streams == 1


async def test_a_long_prompt_gets_a_message_of_its_own(client: Client, router: Echo) -> None:
    assert await answer(client, "x" * 300_000) == "alone"
    assert await answer(client, "y" * 200_000) == f"{'y' * 200_000},{'y' * 200_000}"

    assert router.alone == [300_000]


async def test_leaving_a_turn_stops_it_on_the_server_and_no_other(
    client: Client, router: Echo
) -> None:
    waiting = asyncio.ensure_future(answer(client, "wait"))
    async with contextlib.aclosing(client.stream(TextInput("endless"))) as endless:
        await anext(endless)

    await until(lambda: router.left == ["endless"])
    router.go.set()

    assert await waiting == "wait,wait"


async def test_a_turn_cancelled_before_its_answer_is_stopped_on_the_server(
    client: Client, router: Echo
) -> None:
    turn = asyncio.ensure_future(answer(client, "endless"))
    await until(lambda: router.timeouts == [None])
    turn.cancel()

    await until(lambda: router.left == ["endless"])
    assert await answer(client, "next") == "next,next"


async def test_a_silent_router_costs_no_more_than_the_timeout(client: Client, router: Echo) -> None:
    late = await failure(client, "endless", timeout_s=0.2)

    assert type(late) is DeadlineExceeded
    assert str(late) == f"router {client.target}: no complete answer within 0.2 s"
    assert router.timeouts == [pytest.approx(0.2, abs=0.1)]
    await until(lambda: router.left == ["endless"])


async def test_a_router_that_dies_fails_running_turns_and_is_found_again(router: Echo) -> None:
    async with served(router) as address:
        client = Client(address, reconnect_s=0)
        running = [asyncio.ensure_future(failure(client, "endless")) for _ in range(3)]
        await until(lambda: len(router.timeouts) == 3)

    errors = await asyncio.gather(*running)
    refused = await failure(client, "next")
    async with served(router, int(address.rpartition(":")[2])):
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(Unavailable):
                    again = await answer(client, "again")
                    break
        await client.close()

    assert [type(error) for error in errors] == [Unavailable] * 3
    assert type(refused) is Unavailable
    assert "nothing listens there: start one with `segue serve`" in str(refused)
    assert again == "again,again"
    assert router.left == ["endless"] * 3 + ["again"]


async def test_closing_the_client_stops_its_turns(router: Echo) -> None:
    async with served(router) as address:
        client = Client(address)
        running = asyncio.ensure_future(failure(client, "endless"))
        await until(lambda: router.timeouts == [None])

        await client.close()

        error = await running
        await until(lambda: router.left == ["endless"])

    assert type(error) is Unavailable
    assert str(error).endswith("the connection was closed")


async def all_of(call: AsyncIterator[pb.GenerateManyEvents]) -> list[pb.GenerateManyEvents]:
    return [message async for message in call]


def start(call: int, **fields: Any) -> pb.GenerateManyCommand:
    start = pb.StartGenerate(request=pb.GenerateRequest(text="endless"), **fields)
    return pb.GenerateManyCommand(call=call, start=start)


@pytest.mark.parametrize(
    "commands",
    [[start(1), start(1)], [start(1), pb.GenerateManyCommand(call=2)]],
    ids=["a number twice", "no command"],
)
async def test_a_client_that_breaks_the_protocol_loses_its_stream(
    router: Echo, commands: list[pb.GenerateManyCommand]
) -> None:
    async with served(router) as address, channel_to(address) as channel:

        async def messages() -> AsyncIterator[pb.GenerateManyCommands]:
            yield pb.GenerateManyCommands(commands=commands)
            await asyncio.Event().wait()

        call = SessionsStub(channel).GenerateMany(messages())
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await asyncio.wait_for(all_of(call), timeout=10)

    assert broken.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert router.timeouts == [] or router.left == ["endless"]


async def test_a_message_that_comes_twice_ends_the_stream(
    router: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(router) as address, channel_to(address) as channel:

        async def messages() -> AsyncIterator[pb.GenerateManyCommands]:
            for call in (1, 2):
                yield pb.GenerateManyCommands(commands=[start(call)], number=1)
            await asyncio.Event().wait()

        call = SessionsStub(channel).GenerateMany(messages())
        await asyncio.wait_for(all_of(call), timeout=10)

    assert "ending a stream" in caplog.text


async def test_a_timeout_that_is_no_number_is_refused_and_the_stream_continues(
    router: Echo,
) -> None:
    async with served(router) as address, channel_to(address) as channel:

        async def messages() -> AsyncIterator[pb.GenerateManyCommands]:
            yield pb.GenerateManyCommands(commands=[start(7, timeout_s=float("nan"))])
            await asyncio.Event().wait()

        call = SessionsStub(channel).GenerateMany(messages())
        async with asyncio.timeout(10):
            message = await call.read()
        call.cancel()

    assert isinstance(message, pb.GenerateManyEvents)
    (event,) = message.events
    error = error_from_wire(event.error)
    assert (event.call, type(error)) == (7, InvalidRequest)
    assert "timeout_s" in str(error)
