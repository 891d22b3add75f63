"""An interrupted answer that continues on another worker equals the uninterrupted one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from router.turn.calls import NamedTurn, TurnReserved
from router.turn.links import DecodeLink, WorkerLink
from segue.api.cluster.status import ClusterStatus
from segue.api.errors import InvalidRequest
from segue.api.prompt import Prompt
from segue.api.turn import ComputedOnDecode, TokenDelta, TurnResult, TurnSpec
from segue.api.types import Role, Sampling, SessionId, StopRules, TurnId
from tests.cluster.conftest import LocalCluster, local_cluster

PROMPT = Prompt([(7 * i) % 280 + 5 for i in range(90)])
MAX_TOKENS = 40
PENALISED = Sampling(repetition_penalty=1.1, frequency_penalty=0.6)


@dataclass(frozen=True, slots=True)
class Continued:
    deltas: Sequence[TokenDelta]
    result: TurnResult

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token_id for delta in self.deltas for token_id in delta.token_ids)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


class Workers:
    """A prefill and a decode worker, without a router."""

    def __init__(self, cluster: LocalCluster, status: ClusterStatus) -> None:
        by_role = {worker.role: worker for worker in status.workers}
        self._cluster = cluster
        self._writer = by_role[Role.PREFILL]
        self._prefill = WorkerLink(self._writer)
        self._decode = DecodeLink(by_role[Role.DECODE])
        self._names = iter(range(1000))

    async def answer(self, spec: TurnSpec, *, is_shipped: bool = True) -> Continued:
        """`is_shipped`: a prefill worker computes the context, not the decode worker."""
        turn_id = TurnId(f"turn-{next(self._names)}")
        turn = NamedTurn(turn_id, replace(spec, turn_id=turn_id), prefix=None)
        source = self._writer if is_shipped else ComputedOnDecode(10_000)
        call = self._decode.start(turn, source, timeout_s=60)
        deltas = []
        prefilled: asyncio.Future[None] | None = None
        while not isinstance(news := await call.read(), TurnResult):
            if isinstance(news, TurnReserved):
                prefilled = asyncio.ensure_future(self._prefill.prefill(turn, news.ticket, None))
            if isinstance(news, TokenDelta):
                deltas.append(news)
        if prefilled is not None:
            await prefilled
        self._cluster.check_invariants()
        return Continued(deltas, news)

    async def close(self) -> None:
        await self._prefill.close()
        await self._decode.close()


# One cluster for all of these tests: each leaves it idle.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(demo: Path) -> AsyncIterator[Workers]:
    async with local_cluster(demo) as cluster:
        workers = Workers(cluster, await cluster.client.status())
        yield workers
        await workers.close()


def spec(sampling: Sampling, stop: StopRules | None = None) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId("t"),
        session_id=SessionId(""),
        context=PROMPT,
        sampling=sampling,
        stop=stop or StopRules(max_tokens=MAX_TOKENS),
    )


def after(turn: TurnSpec, token_ids: Sequence[int]) -> TurnSpec:
    return replace(turn, context=turn.context + token_ids, num_answered=len(token_ids))


@pytest.mark.parametrize("is_shipped", [True, False], ids=["shipped", "computed on decode"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), PENALISED, replace(PENALISED, temperature=2.0, top_k=9, seed=3)],
    ids=["greedy", "penalties", "sampled with penalties"],
)
async def test_an_answer_continues_with_the_same_tokens(
    workers: Workers, sampling: Sampling, is_shipped: bool
) -> None:
    turn = spec(sampling)
    whole = await workers.answer(turn)
    assert len(whole.token_ids) == MAX_TOKENS

    for num in (1, 17, MAX_TOKENS - 1):
        rest = await workers.answer(after(turn, whole.token_ids[:num]), is_shipped=is_shipped)

        assert rest.token_ids == whole.token_ids[num:]
        usage, of_whole = rest.result.usage, whole.result.usage
        assert usage.prompt_tokens == of_whole.prompt_tokens == len(PROMPT)
        assert usage.completion_tokens == of_whole.completion_tokens
        assert rest.result.finish_reason == whole.result.finish_reason


async def test_held_back_text_is_sent_with_the_next_token(workers: Workers) -> None:
    turn = spec(Sampling())
    text = (await workers.answer(turn)).text
    half = len(text) // 2
    turn = replace(turn, stop=replace(turn.stop, stop_strings=(text[half : half + 9],)))
    whole = await workers.answer(turn)
    assert whole.result.stop_match

    sent_ids, sent_text = 0, ""
    for delta in whole.deltas[:-1]:
        sent_ids, sent_text = sent_ids + len(delta.token_ids), sent_text + delta.text

        rest = await workers.answer(after(turn, whole.token_ids[:sent_ids]), is_shipped=False)

        assert sent_text + rest.text == whole.text
        assert rest.result.stop_match == whole.result.stop_match


async def test_an_answer_that_has_ended_cannot_be_continued(workers: Workers) -> None:
    turn = spec(Sampling())
    whole = await workers.answer(turn)
    stop = replace(turn.stop, stop_token_ids=(whole.token_ids[4],))

    with pytest.raises(InvalidRequest, match="the answer to continue has already ended"):
        await workers.answer(
            after(replace(turn, stop=stop), whole.token_ids[:10]), is_shipped=False
        )
