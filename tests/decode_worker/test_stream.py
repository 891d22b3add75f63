"""The worker's side of a stream of turns: however it ends, no turn remains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from decode_worker.server import DecodeFace
from decode_worker.turn import Emit, PromptSource, TurnNews
from kv_transfer.ticket import PeerIdentity
from segue.api.errors import InvalidRequest, Overloaded, SegueError, UnknownPrefix
from segue.api.prompt import PrefixName, Prompt, pack_tokens
from segue.api.turn import (
    ComputedOnDecode,
    FinishReason,
    PrefillStarted,
    ShipReport,
    TokenDelta,
    TurnResult,
    TurnSpec,
    Usage,
)
from segue.api.types import TurnId
from segue.internal.v1 import transfer_pb2
from segue.internal.v1 import worker_pb2 as pb
from segue.v1 import session_pb2
from segue.wire.error_details import error_from_wire
from tests.stream_line import StreamLine

END = TurnResult(
    finish_reason=FinishReason.LENGTH, usage=Usage(), report=ShipReport(), decode_s=0.1
)
KNOWN = PrefixName(16, b"k" * 16)


class FakeRunner:
    """Takes turns when the test lets it."""

    def __init__(self) -> None:
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.emitters: dict[TurnId, Emit] = {}
        self.turns: list[TurnSpec] = []
        self.sources: list[PromptSource] = []
        self.stopped: list[TurnId] = []
        self.refusal: Exception | None = None

    def find_prefix(self, prefix: PrefixName) -> Prompt:
        if prefix != KNOWN:
            raise UnknownPrefix("not here")
        return Prompt(range(16))

    async def answer(
        self, turn: TurnSpec, source: PromptSource, emit: Emit, *, timeout_s: float
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        await self.has_room.wait()
        self.turns.append(turn)
        self.sources.append(source)
        over = asyncio.Event()

        def forward(news: TurnNews) -> None:
            emit(news)
            if isinstance(news, TurnResult):
                over.set()

        self.emitters[turn.turn_id] = forward
        emit(PrefillStarted(3))
        try:
            await over.wait()
        except asyncio.CancelledError:
            self.stopped.append(turn.turn_id)
            raise


class Router(StreamLine):
    """The other end of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = FakeRunner()
        runner, context = cast(Any, self.runner), cast(Any, None)
        self.stream = DecodeFace(runner).Turns(self.messages(), context)

    async def error(self, number: int) -> SegueError:
        (event,) = await self.events()
        assert (event.call, event.WhichOneof("event")) == (number, "error")
        return error_from_wire(event.error)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    router = Router()
    yield router
    await router.stream.aclose()


def start(number: int, *, turn_id: str = "", **fields: object) -> pb.TurnCommand:
    turn = pb.TurnSpec(
        turn_id=turn_id or f"turn-{number}",
        context=pack_tokens([1, 2, 3]),
        sampling=session_pb2.Sampling(seed=1),
        stop=session_pb2.Stop(max_tokens=4),
    )
    request = pb.StartTurn(turn=turn, timeout_s=5.0, max_computed_tokens=64)
    for name, value in fields.items():
        setattr(request, name, value)
    return pb.TurnCommand(call=number, start=request)


def stop(number: int) -> pb.TurnCommand:
    return pb.TurnCommand(call=number, stop=session_pb2.StopTurn())


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_events_of_one_step_share_a_message(router: Router) -> None:
    router.send(start(1), start(2))
    assert {event.call for event in await router.events()} == {1, 2}

    for turn_id in ("turn-1", "turn-2"):
        router.runner.emitters[TurnId(turn_id)](TokenDelta(token_ids=(7,), text="x"))
    router.runner.emitters[TurnId("turn-1")](END)

    events = await router.events()
    assert [(e.call, e.WhichOneof("event")) for e in events] == [
        (1, "delta"),
        (2, "delta"),
        (1, "end"),
    ]


async def test_a_router_that_disconnects_stops_its_turns(router: Router) -> None:
    router.send(start(1), start(2), start(3))
    await router.events()
    router.runner.emitters[TurnId("turn-2")](END)
    await router.events()

    router.hang_up()

    assert [message async for message in router.stream] == []
    await settled()
    assert router.runner.stopped == ["turn-1", "turn-3"]


async def test_a_turn_that_waits_for_room_can_be_stopped(router: Router) -> None:
    router.runner.has_room.clear()
    router.send(start(1), start(2))
    reading = asyncio.ensure_future(router.events())
    await settled()

    router.send(stop(1))
    await settled()
    router.runner.has_room.set()

    assert [event.call for event in await reading] == [2]
    assert router.runner.stopped == []
    assert [turn.turn_id for turn in router.runner.turns] == ["turn-2"]


async def test_no_events_are_sent_for_a_stopped_turn(router: Router) -> None:
    router.send(start(1), start(2))
    await router.events()

    router.send(stop(1))
    reading = asyncio.ensure_future(router.events())
    await settled()
    router.runner.emitters[TurnId("turn-1")](TokenDelta(token_ids=(7,)))
    router.runner.emitters[TurnId("turn-1")](END)
    router.runner.emitters[TurnId("turn-2")](END)

    assert [event.call for event in await reading] == [2]
    assert router.runner.stopped == ["turn-1"]


@pytest.mark.parametrize("number", [1, 9])
async def test_stopping_an_ended_or_unknown_turn_changes_nothing(
    router: Router, number: int
) -> None:
    router.send(start(1))
    await router.events()
    router.runner.emitters[TurnId("turn-1")](END)
    await router.events()

    router.send(stop(number), start(2))

    assert [event.call for event in await router.events()] == [2]
    assert router.runner.stopped == []


async def test_a_refusal_ends_only_its_turn(router: Router) -> None:
    router.runner.refusal = Overloaded.after("full", retry_after_s=1.5)
    router.send(start(1))

    error = await router.error(1)
    router.runner.refusal = None
    router.send(start(1))

    assert (type(error), str(error), error.retry_after_s) == (Overloaded, "full", 1.5)
    assert [event.WhichOneof("event") for event in await router.events()] == ["prefill_started"]


async def test_an_unexpected_error_ends_only_its_turn(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    router.runner.refusal = KeyError("oops")
    router.send(start(1))

    error = await router.error(1)

    assert type(error) is SegueError
    assert "KeyError" in str(error)
    assert "unexpected error" in caplog.text


async def test_a_known_prefix_completes_the_prompt(router: Router) -> None:
    command = start(1)
    command.start.turn.prefix.CopyFrom(transfer_pb2.PrefixName(num_tokens=16, digest=KNOWN.digest))
    router.send(command)
    await router.events()

    assert router.runner.turns[0].context == Prompt([*range(16), 1, 2, 3])


async def test_an_unknown_prefix_is_refused_by_name(router: Router) -> None:
    command = start(1)
    command.start.turn.prefix.CopyFrom(transfer_pb2.PrefixName(num_tokens=16, digest=b"?" * 16))
    router.send(command)

    assert type(await router.error(1)) is UnknownPrefix


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_turn_needs_a_timeout(router: Router, timeout_s: float) -> None:
    router.send(start(1, timeout_s=timeout_s))

    error = await router.error(1)

    assert (type(error), "timeout_s" in str(error)) == (InvalidRequest, True)


async def test_a_turn_needs_a_source_of_its_prompt(router: Router) -> None:
    command = start(1)
    command.start.ClearField("prompt_from")
    router.send(command)

    assert type(await router.error(1)) is InvalidRequest


async def test_both_sources_of_a_prompt_are_accepted(router: Router) -> None:
    shipped = start(1)
    shipped.start.writer.CopyFrom(pb.Writer(worker_id="prefill-0", epoch=3, address="here:1"))
    router.send(shipped, start(2))
    await router.events()

    written, computed = router.runner.sources
    assert isinstance(written, PeerIdentity)
    assert (written.worker_id, written.epoch) == ("prefill-0", 3)
    assert computed == ComputedOnDecode(64)


@pytest.mark.parametrize(
    "wrong", [pb.TurnCommand(call=1), start(1), pb.TurnCommand(call=1, prefill=pb.PrefillPrompt())]
)
async def test_a_router_that_breaks_the_protocol_loses_its_stream(
    router: Router, wrong: pb.TurnCommand
) -> None:
    router.send(start(1))
    await router.events()

    router.send(wrong)

    with pytest.raises(InvalidRequest, match="call 1"):
        await router.events()
    await settled()
    assert router.runner.stopped == ["turn-1"]
