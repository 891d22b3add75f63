"""Workers of several ranks: the tokens of one rank, through handoffs, pulls and both tiers.

Leaders are in this process, their followers are processes of their own, and bytes go through
Mooncake, as between real workers.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness.checkpoint import TEXT_FILES
from decode_worker import __main__ as decode_main
from decode_worker.config import DecodeConfig
from kv_transfer.transport.mooncake import open_mooncake
from prefill_worker.config import PrefillConfig
from router.config import RouterConfig
from router.placement.cluster import ClusterModel
from router.placement.estimate import Decision
from router.placement.policy import place
from router.placement.side import Residency, Rules, TurnSize
from segue.api.cluster.status import WorkerHealth
from segue.api.turn import TokenDelta, TurnEnd, TurnStarted
from segue.api.types import (
    Regex,
    SamplingParams,
    StopConditions,
    TextInput,
    TokenInput,
    WorkerId,
)
from segue.launch.cluster import Cluster, running_cluster
from segue.launch.config import ClusterConfig, Config
from segue.launch.ray.start import logs_folder
from segue.sdk.client import Client
from tests.cluster.conftest import ENGINE, local_cluster
from tests.cluster.moving_placement import instead, place_with_pulls, pull_always
from tests.cluster.oracle import Oracle
from tests.cluster.waiting import is_idle, wait_until_idle

ANSWER = StopConditions(max_tokens=24, ignore_eos=True)
PATTERN = "(one|two|three)(, (four|five|six)){2}"


def prompt_of(num_tokens: int, seed: int) -> tuple[int, ...]:
    source = random.Random(seed)
    return tuple(source.randrange(5, 290) for _ in range(num_tokens))


def served(name: str, request: pytest.FixtureRequest, demo: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / "model"))
    for file in TEXT_FILES:
        shutil.copy(demo / file, folder / file)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefill_ranks", "decode_ranks", "groups"),
    [("mtp_dense", 2, 1, 1), ("mtp_moe", 1, 2, 2), ("mtp_moe", 2, 2, 1)],
)
async def test_turns_of_a_session_have_the_models_tokens(
    name: str,
    prefill_ranks: int,
    decode_ranks: int,
    groups: int,
    request: pytest.FixtureRequest,
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.placement.placing.place", place_with_pulls)
    pull_always(monkeypatch)
    folder = served(name, request, demo, tmp_path)
    engine = replace(ENGINE, expert_parallel=groups, host_cache_bytes=4 << 20)
    config = Config(
        engine=engine,
        prefill=PrefillConfig(tensor_parallel=prefill_ranks, chunk_tokens=64),
        decode=DecodeConfig(tensor_parallel=decode_ranks, max_drafts=2, adaptive_drafts=False),
    )
    config = replace(config, router=replace(config.router, local_prefill_max_tokens=0))
    oracle = Oracle(folder)
    usages = []

    async with local_cluster(folder, config, open_transport=open_mooncake) as cluster:
        for number in range(2):
            context = list(prompt_of(150, seed=number))
            for turn in range(3):
                answer = await cluster.client.generate(
                    TokenInput(tuple(context)), session_id=f"s{number}", stop=ANSWER
                )
                assert oracle.would_say(context, answer.token_ids)
                context += [*answer.token_ids, *prompt_of(20, seed=turn)]
                usages.append(answer.end.usage)
        scored = await cluster.client.generate(
            TokenInput(tuple(context)), sampling=SamplingParams(prompt_logprobs=1), stop=ANSWER
        )
        status = await wait_until_idle(cluster.client)
        cluster.check_invariants()
    assert is_idle(status)
    assert all(usage.drafted_tokens > 0 for usage in usages)
    assert sum(usage.pulled_tokens for usage in usages) > 0
    assert sum(worker.load.host_pages.cached for worker in status.workers) > 0
    logprobs = scored.prompt_logprobs
    assert logprobs is not None
    expected = oracle.logprobs(context)[:-1].gather(1, torch.tensor(context[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(logprobs.logprobs), expected, rtol=0, atol=1e-4)


ASKED = {
    "greedy": SamplingParams(temperature=0),
    "sampled": SamplingParams(
        temperature=0.9, top_k=20, top_p=0.95, presence_penalty=0.5, seed=5, logit_bias={70: 2.0}
    ),
    "scored": SamplingParams(temperature=0, logprobs=2),
    "structured": SamplingParams(temperature=0.7, seed=3),
}


@pytest.mark.slow
async def test_steps_that_all_ranks_launch_have_the_tokens_of_one(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs: the leader names the rows of a step, and every rank drafts and samples."""
    monkeypatch.setattr(decode_main, "steps_on_device", lambda _: True)
    answers: dict[int, list[tuple[int, ...]]] = {}
    for num_ranks in (1, 2):
        decode = DecodeConfig(tensor_parallel=num_ranks, max_drafts=2, adaptive_drafts=False)
        config = Config(engine=ENGINE, decode=decode)
        async with local_cluster(demo, config, open_transport=open_mooncake) as cluster:
            said = await asyncio.gather(
                *(
                    cluster.client.generate(
                        TextInput("Count from 1 to 9. Then tell me a joke."),
                        sampling=params,
                        stop=StopConditions(max_tokens=40, ignore_eos=name != "structured"),
                        output=Regex(PATTERN) if name == "structured" else None,
                    )
                    for name, params in ASKED.items()
                )
            )
            status = await wait_until_idle(cluster.client)
            cluster.check_invariants()
        assert is_idle(status)
        answers[num_ranks] = [tuple(one.token_ids) for one in said]
        assert sum(one.end.usage.drafted_tokens for one in said) > 0
        assert re.fullmatch(PATTERN, said[-1].text), said[-1].text

    assert answers[2] == answers[1]


SETTINGS = """
[engine]
num_threads = 1
cache_bytes = 67108864
max_running = 8
tensor_parallel = 2
"""
LONG = StopConditions(max_tokens=400, ignore_eos=True)


@pytest.mark.slow
async def test_an_answer_goes_on_elsewhere_when_one_rank_of_its_worker_dies(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from two ranks to one: what the session had is computed by a worker without ranks."""
    victim = WorkerId("decode-9")

    def place_on_victim(
        turn: TurnSize,
        cluster: ClusterModel,
        residency: Residency,
        rules: Rules,
        *,
        avoid: Collection[WorkerId] = (),
        is_new: bool = False,
    ) -> Decision:
        decision = place(turn, cluster, residency, rules, avoid=avoid, is_new=is_new)
        there = [c for c in decision.candidates if c.decode == victim and victim not in avoid]
        return instead(decision, there[0], cluster) if there else decision

    monkeypatch.setattr("router.placement.placing.place", place_on_victim)
    prompt = TokenInput(prompt_of(70, seed=1))
    settings = tmp_path / "ranks.toml"
    settings.write_text(SETTINGS)
    config = Config(engine=ENGINE, prefill=PrefillConfig(tensor_parallel=2))
    config = replace(config, router=replace(config.router, slow_start_s=0.0))
    async with local_cluster(demo, config, open_transport=open_mooncake) as cluster:
        client = cluster.client
        address = client.target
        command = ["-m", "decode_worker", "--id", victim, "--model", str(demo)]
        with (tmp_path / "worker.log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, *command, "--router", address, "--config", str(settings)],
                stdout=log,
                stderr=log,
            )
        try:
            await wait_until_whole(client, 3)
            turn = client.stream(prompt, stop=LONG)
            started = await anext(turn)
            assert isinstance(started, TurnStarted)
            assert started.decode_worker == victim
            events = [await anext(turn), await anext(turn)]
            (follower,) = followers_of(worker.pid)

            os.kill(follower, signal.SIGKILL)
            events += [event async for event in turn]

            assert await asyncio.to_thread(worker.wait, 30) == 1
            assert "rank 1" in (tmp_path / "worker.log").read_text()
        finally:
            worker.kill()
            worker.wait()
        await wait_until_idle(client)

    tokens = [t for event in events if isinstance(event, TokenDelta) for t in event.token_ids]
    assert tokens == Oracle(demo).greedy(prompt.token_ids, LONG.max_tokens)
    (end,) = [event for event in events if isinstance(event, TurnEnd)]
    assert (end.usage.resumed, end.decode_worker) == (1, "decode-0")


async def test_under_ray_an_answer_goes_on_elsewhere_when_one_rank_of_its_worker_dies(
    ray_cluster: Cluster, demo: Path
) -> None:
    """Two ranks on both sides, in a second cluster on the same Ray, which starts the worker again,
    with new ranks."""
    assert all(not worker.other_ranks for worker in ray_cluster.workers.values())
    prompt, stop = (
        TokenInput(prompt_of(70, seed=1)),
        StopConditions(max_tokens=200, ignore_eos=True),
    )
    config = Config(
        cluster=ClusterConfig(prefill=1, decode=2, http=False),
        router=RouterConfig(port=0, drain_s=5.0),
        engine=replace(ENGINE, tensor_parallel=2),
    )
    with running_cluster(config, lambda stage: None) as cluster:
        followers = {w: follower_of(w) for w in cluster.workers}
        async with Client(cluster.address) as client:
            turn = client.stream(prompt, stop=stop)
            started = await anext(turn)
            assert isinstance(started, TurnStarted)
            events = [await anext(turn), await anext(turn)]
            worker = started.decode_worker
            (leader,) = [w.pid for w in (await client.status()).workers if w.worker_id == worker]
            assert not followers_of(leader), "a rank is an actor of its own"

            os.kill(followers[worker], signal.SIGKILL)
            events += [event async for event in turn]

            await wait_until_gone(leader)
            await wait_until_whole(client, 3)
            assert follower_of(worker) != followers[worker]
            again = await client.generate(prompt, stop=ANSWER)
            status = await wait_until_idle(client)

    tokens = [t for event in events if isinstance(event, TokenDelta) for t in event.token_ids]
    assert Oracle(demo).would_say(prompt.token_ids, tokens)
    assert list(again.token_ids) == tokens[: ANSWER.max_tokens]
    (end,) = [event for event in events if isinstance(event, TurnEnd)]
    assert end.usage.completion_tokens == len(tokens) == stop.max_tokens
    assert end.usage.resumed == 1
    assert end.decode_worker != worker
    assert is_idle(status)


def follower_of(worker: str) -> int:
    """The process id of the second rank in its current life."""
    log = (logs_folder() / f"segue-{worker}-rank-1.log").read_text()
    return int(re.findall(r"process started pid=(\d+)", log)[-1])


def followers_of(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [
        child
        for child in children
        if b"kv_transfer.ranks.follower" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


async def wait_until_gone(pid: int) -> None:
    """A leader does not outlive its followers."""
    async with asyncio.timeout(30):
        while Path(f"/proc/{pid}/cmdline").exists():
            await asyncio.sleep(0.1)


async def wait_until_whole(client: Client, num_workers: int) -> None:
    async with asyncio.timeout(90):
        while True:
            health = [w.health for w in (await client.status()).workers]
            if health == [WorkerHealth.READY] * num_workers:
                return
            await asyncio.sleep(0.2)
