"""A whole cluster whose decode workers launch steps before they read earlier results."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from decode_worker import __main__ as decode_main
from decode_worker.config import DecodeConfig
from segue.api.turn import TokenDelta
from segue.api.types import SamplingParams, StopConditions, TextInput, TokenInput
from segue.engine.device.launcher import Launcher
from segue.worker.load import LoadedModel
from tests.cluster.conftest import local_cluster
from tests.cluster.moving_placement import moving_place, pull_always
from tests.cluster.test_mtp import conversation, drafting, prompts
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.decode_worker.engines import SlowDevice


@pytest.fixture
def overlapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that runs a step only when its result, or a later one's, is awaited."""
    launcher_of = decode_main.launcher_of

    def slow(loaded: LoadedModel, decode: DecodeConfig) -> Launcher:
        return SlowDevice(launcher_of(loaded, decode), num_ahead=1)

    monkeypatch.setattr(decode_main, "steps_on_device", lambda _: True)
    monkeypatch.setattr(decode_main, "launcher_of", slow)


async def test_a_session_that_changes_workers_gets_the_tokens_of_the_host_loop(
    demo: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    async with local_cluster(demo, drafting(0)) as cluster:
        expected = await conversation(cluster)
    request.getfixturevalue("overlapped")
    monkeypatch.setattr("router.placement.placing.place", moving_place)
    pull_always(monkeypatch)
    async with local_cluster(demo, drafting(4, local_tokens=0), prefill=2, decode=2) as cluster:
        answers = await conversation(cluster)

    assert [a.token_ids for a in answers] == [a.token_ids for a in expected]
    assert sum(answer.end.usage.accepted_tokens for answer in answers) > 0


@pytest.mark.usefixtures("overlapped")
async def test_stop_strings_and_cancelled_turns_leave_nothing(demo: Path) -> None:
    async with local_cluster(demo, drafting(3)) as cluster:

        async def cut_short(index: int, prompt: tuple[int, ...]) -> None:
            turn = cluster.client.stream(
                TokenInput(prompt), stop=StopConditions(max_tokens=60, ignore_eos=True)
            )
            num_tokens = 0
            async for event in turn:
                num_tokens += len(event.token_ids) if isinstance(event, TokenDelta) else 0
                if num_tokens > 3 * index:
                    break
            await turn.aclose()

        async def stopped(index: int) -> str:
            answer = await cluster.client.generate(
                TextInput("Tell me a joke."),
                session_id=f"session-{index % 2}",
                sampling=SamplingParams(seed=index, temperature=0.5),
                stop=StopConditions(max_tokens=40, stop_strings=("e ",)),
            )
            return answer.text

        cutting = [cut_short(i, prompt) for i, prompt in enumerate(prompts(6))]
        _, texts = await asyncio.gather(
            asyncio.gather(*cutting), asyncio.gather(*(stopped(i) for i in range(6)))
        )
        status = await wait_until_idle(cluster.client)
        cluster.check_invariants()

    assert not any("e " in text for text in texts)
    assert is_idle(status), status
