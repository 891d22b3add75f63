"""The split cluster answers like one process: real Ray, gRPC and Mooncake, 2 + 2 workers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from segue.api.turn import FinishReason
from segue.api.types import SamplingParams, StopConditions, TokenInput, WorkerId
from segue.launch.cluster import Cluster
from segue.sdk.client import Answer, Client
from tests.cluster.oracle import Oracle
from tests.cluster.waiting import is_idle, wait_until_idle

NUM_TURNS = 40
AT_ONCE = 8
# Around pages of 16 and chunks of 512 tokens, and odd lengths in between.
LENGTHS = [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257, 511, 513, 515, 700, 901, 1025]


def prompts() -> list[tuple[int, ...]]:
    """Prompts of odd lengths over the demo's vocabulary, the same in every run."""
    source = random.Random(7)
    return [
        tuple(source.randrange(5, 900) for _ in range(LENGTHS[index % len(LENGTHS)] + index // 20))
        for index in range(NUM_TURNS)
    ]


async def ask(
    client: Client, prompt: tuple[int, ...], num_tokens: int, sampling: SamplingParams | None = None
) -> Answer:
    return await client.generate(
        TokenInput(prompt),
        sampling=sampling,
        stop=StopConditions(max_tokens=num_tokens, ignore_eos=True),
        timeout_s=120,
    )


async def in_crowds(
    client: Client, asked: list[tuple[tuple[int, ...], int, SamplingParams | None]]
) -> list[Answer]:
    """Runs all of them, `AT_ONCE` at a time, in order."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(prompt: tuple[int, ...], num: int, sampling: SamplingParams | None) -> Answer:
        async with gate:
            return await ask(client, prompt, num, sampling)

    return list(await asyncio.gather(*(one(*turn) for turn in asked)))


def workers(answer: Answer) -> tuple[str, str]:
    return answer.end.prefill_worker, answer.end.decode_worker


async def test_greedy_tokens_equal_those_of_transformers(ray_cluster: Cluster, demo: Path) -> None:
    oracle = Oracle(demo)
    asked = [(prompt, 9 + index % 17, None) for index, prompt in enumerate(prompts())]

    async with Client(ray_cluster.address) as client:
        answers = await in_crowds(client, asked)
        status = await wait_until_idle(client)

    assert [len(answer.token_ids) for answer in answers] == [num for _, num, _ in asked]
    wrong = [
        index
        for index, ((prompt, _, _), answer) in enumerate(zip(asked, answers, strict=True))
        if not oracle.would_say(prompt, answer.token_ids)
    ]
    assert wrong == []
    assert {answer.end.finish_reason for answer in answers} == {FinishReason.LENGTH}
    assert {answer.end.prefill_worker for answer in answers} == {"prefill-0", "prefill-1"}
    assert {answer.end.decode_worker for answer in answers} == {"decode-0", "decode-1"}
    assert is_idle(status), status


async def test_sampled_tokens_depend_only_on_the_seed(
    ray_cluster: Cluster,
) -> None:
    chosen = prompts()[6:14]
    sampling = [
        SamplingParams(
            # The demo model's distributions are sharp.
            temperature=1.8,
            top_p=0.98,
            top_k=50 if index % 2 else 0,
            min_p=0.02 if index % 3 else 0.0,
            repetition_penalty=1.1 if index % 2 else 1.0,
            presence_penalty=0.3 if index % 3 == 1 else 0.0,
            seed=1000 + index,
        )
        for index in range(len(chosen))
    ]
    turns = [(prompt, 24, params) for prompt, params in zip(chosen, sampling, strict=True)]

    async with Client(ray_cluster.address) as client:
        alone = [await ask(client, *turn) for turn in turns]
        crowds: list[list[Answer]] = []
        async with asyncio.timeout(60):
            # Which workers a crowd gets depends on how fast it arrives.
            while len({a.end.decode_worker for crowd in crowds for a in crowd}) < 2:
                crowds.append(await in_crowds(client, turns))
                crowds.append((await in_crowds(client, turns[::-1]))[::-1])
        others = [
            await ask(client, prompt, num_tokens, replace(params, seed=5))
            for prompt, num_tokens, params in turns
        ]

    for crowd in crowds:
        assert [a.token_ids for a in alone] == [a.token_ids for a in crowd]
    differing = [a.token_ids != b.token_ids for a, b in zip(alone, others, strict=True)]
    assert sum(differing) > len(differing) / 2


async def test_cancelled_turns_and_disconnected_clients_leave_nothing_behind(
    ray_cluster: Cluster,
) -> None:
    source = random.Random(3)

    async def cancelled(client: Client, index: int) -> FinishReason:
        turn_id = f"cancel-{index}"
        turn = asyncio.ensure_future(
            client.generate(
                TokenInput(prompts()[index % NUM_TURNS]),
                turn_id=turn_id,
                stop=StopConditions(max_tokens=2000, ignore_eos=True),
            )
        )
        await asyncio.sleep(source.uniform(0.0, 0.6))
        while not await client.cancel(turn_id):
            await asyncio.sleep(0.01)
        return (await turn).end.finish_reason

    async def vanishes(index: int) -> None:
        async with Client(ray_cluster.address) as client:
            turn = asyncio.ensure_future(ask(client, prompts()[(3 * index + 1) % NUM_TURNS], 2000))
            await asyncio.sleep(source.uniform(0.05, 0.6))
            turn.cancel()
            await asyncio.wait({turn})

    async with Client(ray_cluster.address) as client:
        reasons = await asyncio.gather(*(cancelled(client, index) for index in range(20)))
        await asyncio.gather(*(vanishes(index) for index in range(5)))
        status = await wait_until_idle(client)

    assert set(reasons) == {FinishReason.CANCELLED}
    assert is_idle(status), status
    shown = await asyncio.to_thread(
        subprocess.run,
        [
            Path(sys.executable).parent / "segue",
            "status",
            "--json",
            "--target",
            status.router.address,
        ],
        capture_output=True,
        check=True,
    )
    for worker in json.loads(shown.stdout)["workers"]:
        for counts in (worker["load"]["pages"], worker["load"]["slots"]):
            assert counts["free"] + counts["cached"] == counts["total"] > 0
            assert counts["working"] == counts["reserved"] == counts["quarantined"] == 0


async def test_workers_that_die_restart_in_a_new_epoch_and_serve(ray_cluster: Cluster) -> None:
    async with Client(ray_cluster.address) as client:
        before = {w.worker_id: w for w in (await client.status()).workers}
        dead = [WorkerId("prefill-1"), WorkerId("decode-1")]

        for worker_id in dead:
            os.kill(before[worker_id].pid, signal.SIGKILL)

        async with asyncio.timeout(60):
            while True:
                now = {w.worker_id: w for w in (await client.status()).workers}
                if all(
                    now[one].epoch > before[one].epoch and now[one].health == "ready"
                    for one in dead
                ):
                    break
                await asyncio.sleep(0.1)
        answers = await in_crowds(client, [(prompt, 8, None) for prompt in prompts()[:8]])
        status = await wait_until_idle(client)

    assert {len(answer.token_ids) for answer in answers} == {8}
    assert is_idle(status), status
