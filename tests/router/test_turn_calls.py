"""Turns over one stream: early events are queued, queued events are read together, none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.turn.calls import PromptPrefilled, TurnCall
from router.turn.links import TurnCalls, worker_calls
from segue.api.errors import Cancelled, NotResident, Overloaded, Unavailable
from segue.api.turn import FinishReason, PrefillStarted, TokenDelta, TurnResult
from segue.internal.v1 import transfer_pb2
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.worker_pb2_grpc import (
    DecodeWorkerServicer,
    DecodeWorkerStub,
    add_DecodeWorkerServicer_to_server,
)
from segue.v1 import session_pb2
from segue.wire.channel import channel_to
from segue.wire.error_details import error_to_wire
from segue.wire.server import Services, serving


class ScriptedWorker(DecodeWorkerServicer):
    """Sends what the test scripts, and records the commands it receives."""

    def __init__(self) -> None:
        self.commands: asyncio.Queue[pb.TurnCommand] = asyncio.Queue()
        self.events: asyncio.Queue[list[pb.TurnEvent] | None] = asyncio.Queue()
        self.message_numbers = itertools.repeat(0)
        self.num_streams = 0
        self.num_messages = 0

    async def Turns(
        self, request_iterator: AsyncIterator[pb.TurnCommands], context: Any
    ) -> AsyncIterator[pb.TurnEvents]:
        self.num_streams += 1
        listening = asyncio.ensure_future(self._listen(request_iterator))
        try:
            while (events := await self.events.get()) is not None:
                yield pb.TurnEvents(events=events, number=next(self.message_numbers))
        finally:
            listening.cancel()

    async def _listen(self, commands: AsyncIterator[pb.TurnCommands]) -> None:
        async for message in commands:
            self.num_messages += 1
            for command in message.commands:
                self.commands.put_nowait(command)

    async def command(self) -> pb.TurnCommand:
        return await asyncio.wait_for(self.commands.get(), timeout=5)

    def say(self, *events: pb.TurnEvent) -> None:
        self.events.put_nowait(list(events))


class Line:
    """A scripted worker and the calls to it."""

    def __init__(self, worker: ScriptedWorker, calls: TurnCalls) -> None:
        self.worker = worker
        self.calls = calls

    async def start(self) -> tuple[TurnCall, int]:
        """Starts a call; returns it and its number as the worker knows it."""
        call = self.calls.start(pb.TurnCommand(start=pb.StartTurn(timeout_s=5.0)), TurnCall)
        command = await self.worker.command()
        assert command.WhichOneof("command") == "start"
        return call, command.call


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    worker = ScriptedWorker()  # type: ignore[abstract]  # only `Turns` is called

    def services(address: str) -> Services:
        return [
            ("Decode", lambda server: add_DecodeWorkerServicer_to_server(worker, server)),
        ]

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving("127.0.0.1", 0, services, grace_s=0.0))
        channel = await stack.enter_async_context(channel_to(server.address))
        calls = worker_calls(DecodeWorkerStub(channel), "decode-0 at an address", "decode-0")
        stack.push_async_callback(calls.close)
        yield Line(worker, calls)


def tokens(call: int, *ids: int) -> pb.TurnEvent:
    text = "".join(chr(ord("a") + token_id) for token_id in ids)
    return pb.TurnEvent(call=call, delta=session_pb2.TokenDelta(token_ids=ids, text=text))


def end(call: int) -> pb.TurnEvent:
    return pb.TurnEvent(call=call, end=pb.DecodeEnd(finish_reason=session_pb2.FINISH_REASON_LENGTH))


def started(call: int) -> pb.TurnEvent:
    return pb.TurnEvent(call=call, prefill_started=pb.PrefillStarted(computed_tokens=3))


async def read(call: TurnCall, **options: float) -> object:
    return await asyncio.wait_for(call.read(**options), timeout=5)


async def settled() -> None:
    """Waits until the worker's events have arrived."""
    await asyncio.sleep(0.1)


async def test_an_answer_that_ends_before_it_is_read_is_complete(line: Line) -> None:
    call, number = await line.start()
    line.worker.say(started(number), tokens(number, 1), tokens(number, 2), end(number))
    await settled()

    assert await read(call) == PrefillStarted(3)
    assert await read(call) == TokenDelta(token_ids=(1, 2), text="bc")
    result = await read(call)
    assert isinstance(result, TurnResult)
    assert result.finish_reason is FinishReason.LENGTH


async def test_each_turn_of_a_stream_gets_its_own_tokens(line: Line) -> None:
    (one, first), (other, second) = await line.start(), await line.start()

    line.worker.say(tokens(first, 1), tokens(second, 5), tokens(first, 2))
    await settled()

    assert await read(one) == TokenDelta(token_ids=(1, 2), text="bc")
    assert await read(other) == TokenDelta(token_ids=(5,), text="f")
    assert line.worker.num_streams == 1


async def test_tokens_wait_for_their_time_but_an_end_does_not(line: Line) -> None:
    loop = asyncio.get_running_loop()
    call, number = await line.start()
    line.worker.say(tokens(number, 1))
    await settled()

    due_at = loop.time() + 0.2
    reading = asyncio.ensure_future(read(call, not_before=due_at))
    line.worker.say(tokens(number, 2))

    assert await reading == TokenDelta(token_ids=(1, 2), text="bc")
    assert loop.time() >= due_at
    line.worker.say(tokens(number, 3), end(number))
    assert await read(call, not_before=loop.time() + 3600) == TokenDelta(token_ids=(3,), text="d")


async def test_has_news_returns_when_an_event_arrives_or_the_time_is_over(
    line: Line,
) -> None:
    loop = asyncio.get_running_loop()
    call, number = await line.start()

    asked_at = loop.time()
    assert not await call.has_news(within_s=0.05)
    assert loop.time() - asked_at >= 0.05

    asking = asyncio.ensure_future(call.has_news(within_s=3600))
    line.worker.say(tokens(number, 1))
    assert await asyncio.wait_for(asking, timeout=5)
    assert await read(call) == TokenDelta(token_ids=(1,), text="b")

    asking = asyncio.ensure_future(call.has_news(within_s=3600))
    await settled()
    call.fail(Cancelled("enough"))
    assert await asyncio.wait_for(asking, timeout=5)
    with pytest.raises(Cancelled):
        await read(call)


async def test_commands_in_quick_succession_share_a_message(line: Line) -> None:
    await line.start()

    for number in range(20):
        line.calls.start(pb.TurnCommand(start=pb.StartTurn(timeout_s=1.0 + number)), TurnCall)
    timeouts = [(await line.worker.command()).start.timeout_s for _ in range(20)]

    assert timeouts == [1.0 + number for number in range(20)]
    assert line.worker.num_messages == 2


async def test_prefilled_ends_a_prefill_call(line: Line) -> None:
    call, number = await line.start()
    line.worker.say(pb.TurnEvent(call=number, prefilled=pb.PromptPrefilled()))

    assert await read(call) == PromptPrefilled()
    call.close()
    _, other = await line.start()

    assert other != number
    assert line.worker.commands.empty()


async def test_an_error_of_one_turn_keeps_its_type_and_leaves_the_others(line: Line) -> None:
    (one, first), (other, second) = await line.start(), await line.start()

    full = error_to_wire(Overloaded.after("no room", retry_after_s=2.5))
    line.worker.say(pb.TurnEvent(call=first, error=full), tokens(second, 1))

    with pytest.raises(Overloaded, match="no room") as refused:
        await read(one)
    assert refused.value.retry_after_s == 2.5
    assert await read(other) == TokenDelta(token_ids=(1,), text="b")


async def test_closing_a_call_stops_its_turn_once(line: Line) -> None:
    call, number = await line.start()

    call.close()
    call.close()

    command = await line.worker.command()
    assert (command.call, command.WhichOneof("command")) == (number, "stop")
    await settled()
    assert line.worker.commands.empty()


async def test_closing_a_turn_that_has_ended_sends_no_stop(line: Line) -> None:
    call, number = await line.start()
    line.worker.say(end(number))
    await read(call)

    call.close()
    await settled()

    assert line.worker.commands.empty()


async def test_events_for_a_stopped_turn_are_dropped(line: Line) -> None:
    (one, first), (other, second) = await line.start(), await line.start()
    one.close()

    line.worker.say(tokens(first, 1), end(first), tokens(second, 2))

    assert await read(other) == TokenDelta(token_ids=(2,), text="c")


async def test_an_interruption_overtakes_queued_events(line: Line) -> None:
    call, number = await line.start()
    line.worker.say(tokens(number, 1))
    await settled()

    call.fail(Cancelled("enough"))
    call.fail(NotResident("too late to count"))

    with pytest.raises(Cancelled, match="enough"):
        await read(call)


async def test_a_broken_stream_fails_its_turns_and_the_next_turn_opens_another(
    line: Line,
) -> None:
    call, _ = await line.start()
    line.worker.events.put_nowait(None)

    with pytest.raises(Unavailable, match="decode-0"):
        await read(call)
    again, number = await line.start()
    line.worker.say(tokens(number, 1))

    assert await read(again) == TokenDelta(token_ids=(1,), text="b")
    assert line.worker.num_streams == 2


@pytest.mark.parametrize("numbers", [[1, 1], [1, 3], [2]], ids=str)
async def test_a_message_that_is_missing_or_comes_twice_breaks_the_stream(
    line: Line, numbers: list[int]
) -> None:
    line.worker.message_numbers = iter(numbers)
    call, number = await line.start()
    line.worker.say(started(number))
    line.worker.say(tokens(number, 1))

    async def read_all() -> None:
        while True:
            await read(call)

    with pytest.raises(Unavailable, match=r"expected message \d of a stream, got message \d"):
        await read_all()


async def test_messages_in_order_pass(line: Line) -> None:
    line.worker.message_numbers = itertools.count(1)
    call, number = await line.start()
    line.worker.say(started(number))
    line.worker.say(tokens(number, 1), end(number))

    assert isinstance(await read(call), PrefillStarted)
    assert isinstance(await read(call), TokenDelta)
    assert isinstance(await read(call), TurnResult)


async def test_a_lost_worker_fails_all_its_turns_at_once(line: Line) -> None:
    calls = [(await line.start())[0] for _ in range(3)]

    line.calls.fail(Unavailable("decode-0 is lost"))

    for call in calls:
        with pytest.raises(Unavailable, match="is lost"):
            await read(call)


async def test_an_unreachable_worker_is_unavailable() -> None:
    async with channel_to("127.0.0.1:1") as channel:
        calls = worker_calls(DecodeWorkerStub(channel), "decode-9 at an address", "decode-9")

        with pytest.raises(Unavailable, match="decode-9 at an address") as failed:
            await read(calls.start(pb.TurnCommand(start=pb.StartTurn()), TurnCall))

        assert failed.value.lost_worker == "decode-9"
        await calls.close()


async def test_a_ticket_is_passed_on_unchanged(line: Line) -> None:
    call, number = await line.start()
    ticket = transfer_pb2.Ticket(ticket_id="t-1", resident_tokens=32)
    line.worker.say(
        pb.TurnEvent(call=number, reserved=pb.Reserved(ticket=ticket, checkpoint_tokens=16))
    )

    reserved = await read(call)

    assert getattr(reserved, "ticket", None) == ticket
    assert getattr(reserved, "checkpoint_tokens", None) == 16
