"""A prefill worker's stream: each prompt ends once, and a stop always reaches the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kv_transfer.ticket import Ticket
from prefill_worker.server import PrefillFace
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import InvalidRequest, SegueError, TransferFailed, UnknownPrefix
from segue.api.prompt import PrefixName, Prompt, pack_tokens
from segue.api.turn import PrefixHolder, TurnSpec
from segue.internal.v1 import transfer_pb2
from segue.internal.v1 import worker_pb2 as pb
from segue.v1 import session_pb2
from segue.wire.error_details import error_from_wire
from tests.stream_line import StreamLine


class FakeWorker:
    """Prefills when the test lets it."""

    model_id = "model"

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.holders: list[PrefixHolder | None] = []
        self.stopped: list[str] = []
        self.refusal: Exception | None = None

    def find_prefix(self, prefix: PrefixName) -> Prompt:
        raise UnknownPrefix("not here")

    async def prefill(self, turn: TurnSpec, ticket: Ticket, holder: PrefixHolder | None) -> None:
        self.holders.append(holder)
        if self.refusal is not None:
            raise self.refusal
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.stopped.append(turn.turn_id)
            raise

    def status(self) -> WorkerStatus:
        raise NotImplementedError


class Line(StreamLine):
    """The router's end of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.worker = FakeWorker()
        context: Any = None
        self.stream: Any = PrefillFace(self.worker).Turns(self.messages(), context)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    yield line
    await line.stream.aclose()


def prefill(number: int, **fields: Any) -> pb.TurnCommand:
    name = f"turn-{number}"
    turn = pb.TurnSpec(
        turn_id=name, context=pack_tokens([1, 2, 3]), stop=session_pb2.Stop(max_tokens=4)
    )
    ticket = transfer_pb2.Ticket(
        ticket_id="t", turn_id=name, worker_id="decode-0", epoch=1, address="here:1", page_ids=[0]
    )
    prompt = pb.PrefillPrompt(turn=turn, ticket=ticket)
    prompt.MergeFrom(pb.PrefillPrompt(**fields))
    return pb.TurnCommand(call=number, prefill=prompt)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_prompts_that_end_together_share_a_message(line: Line) -> None:
    holder = pb.PrefixHolder(worker_id="decode-1", epoch=2, address="there:1", checkpoint_tokens=16)
    line.send(prefill(1), prefill(2, holder=holder))
    reading = asyncio.ensure_future(line.events())
    await settled()

    line.worker.may_end.set()

    ended = [(event.call, event.WhichOneof("event")) for event in await reading]
    assert ended == [(1, "prefilled"), (2, "prefilled")]
    assert [h.worker_id if h else None for h in line.worker.holders] == [None, "decode-1"]


async def test_a_stopped_prompt_is_stopped_on_the_worker_and_sends_nothing_more(
    line: Line,
) -> None:
    line.send(prefill(1), prefill(2))
    reading = asyncio.ensure_future(line.events())
    await settled()

    line.send(pb.TurnCommand(call=1, stop=session_pb2.StopTurn()))
    await settled()
    line.worker.may_end.set()

    assert [event.call for event in await reading] == [2]
    assert line.worker.stopped == ["turn-1"]


async def test_a_router_that_disconnects_stops_its_prompts(line: Line) -> None:
    line.send(prefill(1), prefill(2))
    reading = asyncio.ensure_future(anext(line.stream, None))
    await settled()

    line.hang_up()

    assert await asyncio.wait_for(reading, timeout=5) is None
    await settled()
    assert line.worker.stopped == ["turn-1", "turn-2"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(TransferFailed("gone"), TransferFailed), (KeyError("oops"), SegueError)],
)
async def test_an_error_ends_only_its_prompt(
    line: Line, error: Exception, kind: type[SegueError]
) -> None:
    line.worker.refusal = error
    line.send(prefill(1))
    (failed,) = await line.events()
    line.worker.refusal = None
    line.worker.may_end.set()
    line.send(prefill(1))
    (event,) = await line.events()

    assert (failed.call, type(error_from_wire(failed.error))) == (1, kind)
    assert event.WhichOneof("event") == "prefilled"


async def test_an_unknown_prefix_is_refused_by_name(line: Line) -> None:
    command = prefill(1)
    command.prefill.turn.prefix.CopyFrom(transfer_pb2.PrefixName(num_tokens=16, digest=b"?" * 16))
    line.send(command)

    (failed,) = await line.events()

    assert type(error_from_wire(failed.error)) is UnknownPrefix
    assert line.worker.holders == []


async def test_a_command_for_a_decode_worker_is_refused(line: Line) -> None:
    line.send(pb.TurnCommand(call=1, start=pb.StartTurn()))

    with pytest.raises(InvalidRequest, match="call 1: expected a prompt"):
        await line.events()
