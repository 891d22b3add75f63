"""Messages that once ended, blinded or drained a worker: each is refused, with nothing lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from router.config import RouterConfig
from router.turn.calls import TurnCall
from router.turn.links import worker_calls
from segue.api.errors import InvalidRequest, NotFound, SegueError, Unavailable
from segue.api.prompt import pack_tokens
from segue.api.types import MAX_STOP_TOKEN_IDS, SamplingParams, StopConditions, TokenInput
from segue.cache.unit_pool import UnitState
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.internal.v1.transfer_pb2_grpc import HandoffReaderStub, HandoffWriterStub
from segue.internal.v1.worker_pb2_grpc import DecodeWorkerStub, PrefillWorkerStub
from segue.launch.config import Config
from segue.sdk.client import Answer
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from segue.wire.status import rpc_errors
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

PROMPT = tuple(range(20, 120))
CONFIG = Config(
    engine=replace(ENGINE, max_running=64),
    # Every prompt is computed by prefill and handed over.
    router=RouterConfig(local_prefill_max_tokens=0),
)


# One cluster for all of these tests: each leaves it unchanged.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def exits() -> Iterator[list[int]]:
    """Records each call that would end the process."""
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", seen.append)
        yield seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(demo: Path, exits: list[int]) -> AsyncIterator[LocalCluster]:
    async with local_cluster(demo, CONFIG) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared: LocalCluster, exits: list[int]) -> AsyncIterator[LocalCluster]:
    yield shared
    status = await wait_until_idle(shared.client)
    assert is_idle(status), status
    shared.check_invariants()
    assert exits == []


@pytest_asyncio.fixture(loop_scope="module")
async def decode(cluster: LocalCluster) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(cluster.decode[0].presence.address) as channel:
        yield channel


@pytest_asyncio.fixture(loop_scope="module")
async def prefill(cluster: LocalCluster) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(cluster.prefill[0].presence.address) as channel:
        yield channel


async def answer(cluster: LocalCluster, first: int = 20, **options: Any) -> Answer:
    prompt = tuple(range(first, first + 100))
    return await cluster.client.generate(
        TokenInput(prompt), stop=StopConditions(max_tokens=8, ignore_eos=True), **options
    )


async def start(cluster: LocalCluster, **request: Any) -> None:
    """Starts a turn without a router; returns the worker's first event."""
    start = worker_pb2.StartTurn(timeout_s=5.0, **request)
    address = cluster.decode[0].presence.address
    async with channel_to(address) as channel:
        await first_word(DecodeWorkerStub(channel), worker_pb2.TurnCommand(start=start))


async def first_word(stub: Any, command: worker_pb2.TurnCommand) -> None:
    calls = worker_calls(stub, "the worker", "decode-0")
    try:
        await asyncio.wait_for(calls.start(command, TurnCall).read(), timeout=5)
    finally:
        await calls.close()


async def prefill_prompt(
    cluster: LocalCluster, turn: worker_pb2.TurnSpec, ticket: transfer_pb2.Ticket
) -> None:
    """Prefills without a router."""
    prompt = worker_pb2.PrefillPrompt(turn=turn, ticket=ticket)
    address = cluster.prefill[0].presence.address
    async with channel_to(address) as channel:
        await first_word(PrefillWorkerStub(channel), worker_pb2.TurnCommand(prefill=prompt))


def spec(**changed: Any) -> worker_pb2.TurnSpec:
    prompt = pack_tokens(PROMPT)
    fields = {"turn_id": "hostile", "context": prompt, "stop": pb.Stop(max_tokens=8)}
    return worker_pb2.TurnSpec(**(fields | changed))


BAD_SPECS = {
    "a token that the model does not have": (
        spec(context=pack_tokens([1_000_000])),
        "0 to 1535, got 1000000",
    ),
    "no prompt": (spec(context=b""), "prompt of at least one token"),
    "a bias for a token that the model does not have": (
        spec(sampling=pb.Sampling(logit_bias={10**6: 1.0}, repetition_penalty=1.5)),
        "logit_bias: expected ids of the model's tokens, 0 to",
    ),
    "a stop token that the model does not have": (
        spec(stop=pb.Stop(max_tokens=8, token_ids=[10**6])),
        "stop_token_ids: expected ids of the model's tokens, 0 to",
    ),
    "an answer beyond the context": (spec(stop=pb.Stop(max_tokens=2**31 - 1)), "has room for"),
    "branch points from behind": (spec(branch_points=[9, 3]), "must be ascending"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
async def test_no_turn_ends_the_worker_that_receives_it(cluster: LocalCluster, case: str) -> None:
    turn, reason = BAD_SPECS[case]
    right = await answer(cluster)
    identity = cluster.prefill[0].presence.identity
    ticket = transfer_pb2.Ticket(
        ticket_id="t",
        turn_id="hostile",
        worker_id="decode-0",
        epoch=cluster.decode[0].presence.identity.epoch,
        address=cluster.decode[0].presence.address,
        page_ids=range(7),
        expires_in_s=5,
    )
    writer = worker_pb2.Writer(
        worker_id=identity.worker_id,
        epoch=identity.epoch,
        address=cluster.prefill[0].presence.address,
    )
    calls = [
        start(cluster, turn=turn, max_computed_tokens=10**6),
        start(cluster, turn=turn, writer=writer),
        prefill_prompt(cluster, turn, ticket),
    ]

    for call in calls:
        with pytest.raises(InvalidRequest, match=reason):
            await call

    assert (await answer(cluster)).token_ids == right.token_ids


async def test_guessed_tickets_cannot_be_fenced_committed_or_aborted(
    cluster: LocalCluster, decode: grpc.aio.Channel, prefill: grpc.aio.Channel
) -> None:
    writer, reader = (w[0].presence.identity for w in (cluster.prefill, cluster.decode))
    guesses = [f"decode-0-{reader.epoch}-{number}" for number in range(1, 61)]
    for guess in guesses:
        await HandoffWriterStub(prefill).Fence(
            transfer_pb2.FenceRequest(ticket_id=guess, writer_epoch=writer.epoch)
        )
        await HandoffReaderStub(decode).Abort(
            transfer_pb2.AbortRequest(ticket_id=guess, epoch=reader.epoch)
        )
        with pytest.raises(NotFound), rpc_errors("decode"):
            await HandoffReaderStub(decode).Commit(
                transfer_pb2.CommitRequest(ticket_id=guess, epoch=reader.epoch)
            )

    answers = await asyncio.gather(*(answer(cluster, first) for first in range(100, 112)))

    assert [len(one.token_ids) for one in answers] == [8] * 12


@pytest.mark.parametrize(
    "writer",
    [
        {"worker_id": "nobody"},
        {"address": "127.0.0.1:1"},
        {"epoch": 1},
    ],
)
async def test_reservations_for_unknown_writers_take_nothing(
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    writer: dict[str, Any],
) -> None:
    monkeypatch.setattr("kv_transfer.peers.members.NEWS_WAIT_S", 0.05)
    presence = cluster.prefill[0].presence
    real = {
        "worker_id": presence.identity.worker_id,
        "epoch": presence.identity.epoch,
        "address": presence.address,
    }

    async def reserve(number: int) -> None:
        turn = spec(turn_id=f"hostile-{number}")
        with pytest.raises(Unavailable, match="is not in the cluster"):
            await start(cluster, turn=turn, writer=worker_pb2.Writer(**(real | writer)))

    await asyncio.gather(*(reserve(number) for number in range(32)))

    counts = cluster.decode[0].status().load.pages
    assert counts.reserved == counts.quarantined == 0
    assert len((await answer(cluster)).token_ids) == 8


async def test_leases_and_pauses_may_be_shorter_than_a_check(
    cluster: LocalCluster,
) -> None:
    await answer(cluster, session_id="s")

    seconds = await cluster.client.renew_session("s", 1e-6, pause_s=1e-6)

    assert seconds == pytest.approx(2e-6)
    with pytest.raises(NotFound):
        await cluster.client.renew_session("s", 10.0)


MANY = 300_000
CROWDED: dict[str, tuple[dict[str, Any], str]] = {
    "messages": ({"chat": {"messages": [{}] * MANY}}, f"too long: {MANY} messages, parts"),
    "parts": (
        {"chat": {"messages": [{"content_parts": [""] * MANY}]}},
        f"too long: {MANY + 1} messages",
    ),
    "calls": (
        {"chat": {"messages": [{"tool_calls": [{}] * MANY}]}},
        f"too long: {MANY + 1} messages",
    ),
    "tools": ({"chat": {"tools": [""] * MANY}}, f"too long: {MANY} messages"),
    "prompt": ({"token_ids": {"ids": [5] * MANY}}, f"the prompt is too long: {MANY} tokens > "),
    "stop ids": ({"stop": {"token_ids": [5] * MANY}}, "stop_token_ids must have at most 1024"),
    "stops": ({"stop": {"strings": [""] * MANY}}, "stop_strings must have at most 16"),
    "bias": ({"sampling": {"logit_bias": dict.fromkeys(range(MANY), 1.0)}}, "at most 4096"),
    "choices": ({"output": {"choice": {"texts": [""] * MANY}}}, "choice.texts must have at most"),
    "resumed": ({"resume": {"token_ids": [5] * MANY}}, "resume.token_ids must have at most"),
}


@pytest.mark.parametrize("case", CROWDED)
async def test_a_request_of_too_many_items_is_refused_before_it_is_converted(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Converting millions takes seconds, in which no other turn would go on."""
    converted: list[object] = []
    monkeypatch.setattr("router.server.request_from_wire", converted.append)
    fields, message = CROWDED[case]

    async with channel_to(cluster.client.target) as channel:
        call = SessionsStub(channel).Generate(pb.GenerateRequest(**{"text": "Hi", **fields}))
        with pytest.raises(InvalidRequest, match=message), rpc_errors("the router"):
            await call.read()

    assert converted == []


@pytest.mark.parametrize("name", ["", "x" * 257, "two\nlines"])
async def test_a_forks_name_must_be_a_valid_session_name(cluster: LocalCluster, name: str) -> None:
    await answer(cluster, session_id="s")

    with pytest.raises(InvalidRequest, match="session_id"):
        await cluster.client.fork_session("s", name)


async def test_as_many_stop_tokens_as_allowed_are_accepted(cluster: LocalCluster) -> None:
    """The router adds the checkpoint's."""
    stop = StopConditions(max_tokens=8, stop_token_ids=tuple(range(200, 200 + MAX_STOP_TOKEN_IDS)))

    answer = await cluster.client.generate(TokenInput(PROMPT), stop=stop)

    assert answer.token_ids


async def test_a_penalty_at_its_limit_is_accepted(cluster: LocalCluster) -> None:
    answered = await answer(cluster, sampling=SamplingParams(repetition_penalty=0.01))

    assert len(answered.token_ids) == 8


@pytest.mark.parametrize("first_token", [10**6, 2**32 - 1])
async def test_a_first_token_of_another_model_is_refused(
    cluster: LocalCluster, decode: grpc.aio.Channel, first_token: int
) -> None:
    request = transfer_pb2.CommitRequest(
        ticket_id="any",
        epoch=cluster.decode[0].presence.identity.epoch,
        outcome=transfer_pb2.PrefillOutcome(first_token=pb.SampledToken(token_id=first_token)),
    )

    refused = pytest.raises(InvalidRequest, match=f"the first token is {first_token}")
    with refused, rpc_errors("decode"):
        await HandoffReaderStub(decode).Commit(request)


class Bug(RuntimeError):
    pass


def raising(*_: object, **__: object) -> Any:
    raise Bug("not one of ours")


PLACES = [
    "decode_worker.memory.residency.Residency.spare_slots",
    "decode_worker.turn.Sequences.make",
    "decode_worker.memory.residency.Residency.keep",
    "kv_transfer.reading.reader.HandoffReader.reserve",
    "kv_transfer.reading.reservations.TicketBook.new_ticket_id",
    "kv_transfer.reading.reservations.TicketBook.add",
    "kv_transfer.writing.outgoing.Outgoing.finish",
    "kv_transfer.peers.calls.Peers.commit",
    "decode_worker.memory.leases.TieredLeases.grant",
    "decode_worker.engine.engine._push",
    "prefill_worker.engine.PrefillEngine._row",
    "prefill_worker.units.PromptMemory._take_behind",
    "segue.cache.prefix.cache.PrefixCache.insert",
    "prefill_worker.engine.PrefillEngine._shipped",
    "kv_transfer.writing.writer.HandoffWriter.start",
]


@pytest.mark.parametrize("place", PLACES)
async def test_any_error_after_memory_was_taken_gives_it_back(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    right = await answer(cluster, 30)
    with monkeypatch.context() as broken:
        broken.setattr(place, raising)
        with pytest.raises(SegueError):
            # A prompt of its own, of which nothing is cached anywhere.
            await answer(cluster, 140 + PLACES.index(place), session_id=place)
        status = await wait_until_idle(cluster.client)

    assert is_idle(status), status
    cluster.check_invariants()
    assert (await answer(cluster, 30)).token_ids == right.token_ids


async def test_a_leak_is_logged_with_its_owners_name(cluster: LocalCluster) -> None:
    (worker,) = cluster.decode
    pages = worker._memory.pages.take(5, UnitState.WORKING, owner="turn-of-yesterday")
    slots = worker._memory.slots.take(2, UnitState.WORKING, owner="turn-of-yesterday")

    status = await cluster.client.status()
    (seen,) = (w.load for w in status.workers if w.worker_id == "decode-0")

    assert (seen.pages.stray, seen.slots.stray) == (5, 2)
    assert not is_idle(status)
    assert "5 pages and 2 slots are owned by turn-of-yesterday" in str(worker.strays())
    worker._memory.pages.give_back(pages, UnitState.WORKING)
    worker._memory.slots.give_back(slots, UnitState.WORKING)
