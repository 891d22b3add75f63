"""An answer whose decode worker is lost goes on elsewhere: the client sees the same answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.turn.lifecycle import Streaming
from router.turn.turn import Turn
from segue.api.errors import InvalidRequest, TakenOver
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnStarted
from segue.api.types import (
    Resume,
    SampledToken,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    TurnId,
    TurnRequest,
)
from segue.launch.config import Config
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from segue.wire.convert.events import events_from_wire
from segue.wire.convert.request import request_to_wire
from segue.wire.status import rpc_errors
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle, wait_until_ready

PROMPT = TextInput("Count from 1 to 60.\nAnd then: where do I live, and what is the router?\n" * 4)
MAX_TOKENS = 48
SAMPLED = SamplingParams(
    temperature=1.5, top_k=20, repetition_penalty=1.2, frequency_penalty=0.4, seed=7, logprobs=2
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Seen:
    """What the client of one turn got."""

    started: list[TurnStarted] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[SampledToken] = field(default_factory=list)
    end: TurnEnd | None = None

    @property
    def answer(self) -> tuple[object, ...]:
        assert self.end is not None
        usage = self.end.usage
        return (
            *(self.token_ids, self.text, self.end.finish_reason, self.end.stop_match),
            *(usage.prompt_tokens, usage.completion_tokens),
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(demo: Path) -> AsyncIterator[LocalCluster]:
    # A lost worker must not be back before its turn has moved.
    config = Config(engine=ENGINE)
    async with local_cluster(demo, config, prefill=2, decode=2, heartbeat_s=0.5) as cluster:
        yield cluster


async def answered(
    cluster: LocalCluster,
    *,
    lost_after: Sequence[int] = (),
    sampling: SamplingParams | None = None,
    stop: StopConditions | None = None,
    session_id: str = "",
    prompt: TextInput = PROMPT,
) -> Seen:
    """`lost_after`: numbers of tokens after which the router loses the turn's decode worker."""
    await wait_until_ready(cluster.client, 4)
    seen = Seen()
    stop = stop or StopConditions(max_tokens=MAX_TOKENS, ignore_eos=True)
    stream = cluster.client.stream(
        prompt, session_id=session_id, sampling=sampling or SamplingParams(), stop=stop
    )
    with losing_decode(cluster, lost_after):
        async for event in stream:
            match event:
                case TurnStarted():
                    seen.started.append(event)
                case TokenDelta():
                    seen.token_ids += event.token_ids
                    seen.text += event.text
                    seen.logprobs += event.logprobs
                case TurnEnd():
                    seen.end = event
    cluster.check_invariants()
    return seen


_undisturbed: dict[str, Seen] = {}


async def undisturbed(cluster: LocalCluster, sampling: SamplingParams | None = None) -> Seen:
    """The answer if no worker is lost, computed once. The copy is the caller's."""
    key = repr(sampling or SamplingParams())
    if key not in _undisturbed:
        _undisturbed[key] = await answered(cluster, sampling=sampling)
    return deepcopy(_undisturbed[key])


@contextlib.contextmanager
def losing_decode(cluster: LocalCluster, lost_after: Sequence[int]) -> Iterator[None]:
    """As when the worker's connection breaks. It comes back with its next heartbeat."""
    left = list(lost_after)
    take = Turn._on_tokens

    def take_and_lose(turn: Turn, delta: TokenDelta) -> None:
        take(turn, delta)
        if left and len(turn.answer) >= left[0]:
            del left[0]
            assert isinstance(turn.state, Streaming)
            worker = turn.state.placement.decode
            cluster.router.membership.lost(worker.worker_id, worker.epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Turn, "_on_tokens", take_and_lose)
        yield
    assert not left, "the turn ended before its worker was lost"


@pytest.mark.parametrize("lost_after", [[1], [17], [9, 30], [MAX_TOKENS - 4]], ids=str)
@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
async def test_the_client_sees_the_same_answer(
    cluster: LocalCluster, sampling: SamplingParams, lost_after: list[int]
) -> None:
    whole = await undisturbed(cluster, sampling)
    for _ in range(5):
        resumed = await answered(cluster, sampling=sampling, lost_after=lost_after)
        assert resumed.answer == whole.answer
        assert resumed.end is not None
        # On busy cores the last tokens may come together, and the worker is lost too late.
        if resumed.end.usage.resumed == len(lost_after):
            break

    assert len(resumed.started) == 1
    assert [token.token_id for token in resumed.logprobs] == [
        token.token_id for token in whole.logprobs
    ]
    for one, other in zip(resumed.logprobs, whole.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
    assert whole.end is not None
    assert (whole.end.usage.resumed, resumed.end.usage.resumed) == (0, len(lost_after))
    assert is_idle(await wait_until_idle(cluster.client))


async def test_a_stop_string_ends_an_answer_across_the_seam(cluster: LocalCluster) -> None:
    whole = await undisturbed(cluster)
    half = len(whole.text) // 2
    stop = StopConditions(
        max_tokens=MAX_TOKENS, ignore_eos=True, stop_strings=(whole.text[half : half + 7],)
    )
    stopped = await answered(cluster, stop=stop)
    assert stopped.end is not None
    assert stopped.end.finish_reason is FinishReason.STOP

    for num in range(max(len(stopped.token_ids) - 7, 1), len(stopped.token_ids) + 1):
        resumed = await answered(cluster, stop=stop, lost_after=[num])
        assert resumed.answer == stopped.answer, num


async def test_an_answer_that_is_whole_ends_without_its_worker(cluster: LocalCluster) -> None:
    whole = await undisturbed(cluster)
    resumed = await answered(cluster, lost_after=[MAX_TOKENS])

    assert resumed.answer == whole.answer
    assert is_idle(await wait_until_idle(cluster.client))


async def test_a_session_goes_on_where_it_was(cluster: LocalCluster) -> None:
    first = await answered(cluster, session_id="a", lost_after=[20])
    text = PROMPT.text + first.text
    second = await answered(cluster, session_id="a", prompt=replace(PROMPT, text=f"{text} Why?"))
    assert second.end is not None
    usage = second.end.usage

    assert usage.resumed == 0
    assert usage.resident_tokens + usage.cached_tokens > usage.prompt_tokens * 0.8


def resuming(seen: Seen, session_id: str) -> pb.GenerateRequest:
    """The turn as a client sends it that lost its stream after what it has seen."""
    started = seen.started[-1]
    resume = Resume(
        token_ids=tuple(seen.token_ids),
        resumed=1,
        prefill_worker=started.prefill_worker,
        decode_worker=started.decode_worker,
    )
    return turn_request(session_id, resume)


def turn_request(session_id: str, resume: Resume | None = None) -> pb.GenerateRequest:
    return request_to_wire(
        TurnRequest(
            session_id=SessionId(session_id),
            turn_id=TurnId(f"turn of {session_id}"),
            input=PROMPT,
            sampling=replace(SAMPLED, logprobs=None),
            stop=StopConditions(max_tokens=MAX_TOKENS, ignore_eos=True),
            resume=resume,
        )
    )


async def read(stream: Any, seen: Seen, *, up_to: int = MAX_TOKENS + 1) -> None:
    """Reads until there are so many tokens, or to the end."""
    while len(seen.token_ids) < up_to and (message := await stream.read()):
        for event in events_from_wire(message):
            match event:
                case TurnStarted():
                    seen.started.append(event)
                case TokenDelta():
                    seen.token_ids += event.token_ids
                    seen.text += event.text
                case TurnEnd():
                    seen.end = event


async def test_a_resumed_turn_takes_over_from_one_that_still_runs(cluster: LocalCluster) -> None:
    """As after a connection that is half open: the router has not noticed that its client left."""
    whole = await undisturbed(cluster, replace(SAMPLED, logprobs=None))
    async with channel_to(cluster.client.target) as channel:
        stub = SessionsStub(channel)
        for num_tokens in (1, 8, 25):
            name, seen = f"over-{num_tokens}", Seen()
            older = stub.Generate(turn_request(name))
            await read(older, seen, up_to=num_tokens)
            running = "is already running: use another turn_id"
            with pytest.raises(InvalidRequest, match=running), rpc_errors("router"):
                await read(stub.Generate(turn_request(name)), Seen())
            kept = replace(seen, token_ids=seen.token_ids[:], started=seen.started[:])
            await read(stub.Generate(resuming(kept, name)), kept)

            assert kept.answer == whole.answer
            assert kept.end is not None
            assert kept.end.usage.resumed == 1
            with pytest.raises(TakenOver), rpc_errors("router"):
                await read(older, seen)
            assert whole.token_ids[: len(seen.token_ids)] == seen.token_ids
    cluster.check_invariants()
    assert is_idle(await wait_until_idle(cluster.client))


async def test_a_client_that_does_not_count_how_often_it_resumed(cluster: LocalCluster) -> None:
    whole = await undisturbed(cluster, replace(SAMPLED, logprobs=None))
    seen = replace(whole, token_ids=whole.token_ids[:9], text="", end=None)
    async with channel_to(cluster.client.target) as channel:
        request = turn_request("uncounted", Resume(token_ids=tuple(seen.token_ids)))
        await read(SessionsStub(channel).Generate(request), seen)

    assert seen.token_ids == whole.token_ids
    assert seen.end is not None
    assert seen.end.usage.resumed == 1


async def test_what_a_stopped_turn_left_is_not_computed_again(cluster: LocalCluster) -> None:
    """A worker whose router or client is gone keeps whole pages, and the last state before them."""
    whole = await undisturbed(cluster, replace(SAMPLED, logprobs=None))
    computed = []
    async with channel_to(cluster.client.target) as channel:
        stub = SessionsStub(channel)
        for number in range(4):
            name, seen = f"left-{number}", Seen()
            stream = stub.Generate(turn_request(name))
            await read(stream, seen, up_to=20 + number)
            stream.cancel()
            await wait_until_idle(cluster.client)
            before = num_computed(cluster)
            await read(stub.Generate(resuming(seen, name)), seen)

            assert seen.answer == whole.answer
            assert seen.started[0].decode_worker == seen.started[1].decode_worker
            computed.append(num_computed(cluster) - before)

    # The worker may have crossed a page's end that its client did not hear of. Then it has computed
    # the answer again, in one pass.
    assert min(computed) <= ENGINE.page_tokens + 1
    assert max(computed) < 2 * ENGINE.page_tokens + 20


def num_computed(cluster: LocalCluster) -> int:
    """Tokens of prompts that were computed, on all workers."""
    on_prefill = [w._metrics._computed_tokens for w in cluster.prefill]
    on_decode = [w._metrics._prefilled_tokens for w in cluster.decode]
    return sum(int(counter._value.get()) for counter in (*on_prefill, *on_decode))


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        (Resume(token_ids=(5, 1 << 20)), "the model's ids go from 0 to"),
        (Resume(token_ids=(5,) * (MAX_TOKENS + 1)), f"expected at most {MAX_TOKENS} tokens"),
    ],
    ids=["vocabulary", "too many"],
)
async def test_tokens_that_are_no_start_of_the_answer_are_refused(
    cluster: LocalCluster, resume: Resume, message: str
) -> None:
    async with channel_to(cluster.client.target) as channel:
        stub = SessionsStub(channel)
        wrong = f"resume.token_ids: .*{message}"
        with pytest.raises(InvalidRequest, match=wrong), rpc_errors("router"):
            await read(stub.Generate(turn_request("bad", resume)), Seen())


async def test_a_client_that_has_the_whole_answer_gets_its_end(cluster: LocalCluster) -> None:
    whole = await undisturbed(cluster, replace(SAMPLED, logprobs=None))
    seen = replace(whole, end=None)
    async with channel_to(cluster.client.target) as channel:
        await read(SessionsStub(channel).Generate(resuming(seen, "whole")), seen)

    assert seen.answer == whole.answer
