"""One cell of the table: the effect of a number of sessions on a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.processes import ProcessCluster, process_cluster
from benchmarks.harness.samples import median, percentile
from benchmarks.load.drive import Outcome, run_load
from benchmarks.load.over_http import run_http_load
from segue import Client, StopConditions, TokenInput
from segue.api.errors import SegueError
from tests.cluster.waiting import is_idle, wait_until_idle

_READY_S = 60.0
_IDLE_S = 30.0

ENGINE = """
[engine]
num_threads = 1
cache_bytes = 268435456
max_running = 160

[router]
max_turns = 256
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    prefill: int
    decode: int
    is_local: bool
    """Whether decode workers may compute the end of a prompt."""

    @property
    def settings(self) -> str:
        return ENGINE + ("" if self.is_local else "local_prefill_max_tokens = 0\n")

    def __str__(self) -> str:
        return f"{self.prefill}P{self.decode}D{', local prefill' if self.is_local else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    topology: str
    sessions: int
    turns: int
    failures: dict[str, int]
    refusals: int
    seconds: float
    first_token_p50_s: float
    first_token_p99_s: float
    router_cpu_s: float
    reused_share: float
    """The share of prompt tokens taken from a cache."""
    busiest_share: float
    """The share of turns on the busiest decode worker."""
    is_idle_after: bool
    """Whether all pages and slots are free or cached, and nothing runs."""
    grown_bytes: dict[str, int]
    """Growth of each process's resident memory."""


async def measure_topology(
    topology: Topology,
    *,
    sessions: list[int],
    turns: int,
    model: str,
    code: Path,
    over_http: bool = False,
) -> list[Cell]:
    with process_cluster(
        model,
        topology.settings,
        prefill=topology.prefill,
        decode=topology.decode,
        code=code,
        has_gateway=over_http,
    ) as cluster:
        async with Client(cluster.address) as client:
            await until_ready(client, topology.prefill + topology.decode)

            async def load(num_sessions: int, num_turns: int, seed: int) -> Outcome:
                how = {"num_sessions": num_sessions, "num_turns": num_turns, "seed": seed}
                if over_http:
                    return await run_http_load(cluster.http_address, **how)
                return await run_load(client, **how)

            name = f"{topology}, over HTTP" if over_http else str(topology)
            # Memory that every process takes once: touched pages, loaded code.
            await load(max(sessions), 10 * max(sessions), 0)
            return [
                await _measure(cluster, client, load, name, num_sessions, turns)
                for num_sessions in sessions
            ]


async def _measure(
    cluster: ProcessCluster,
    client: Client,
    load: Callable[[int, int, int], Awaitable[Outcome]],
    topology: str,
    sessions: int,
    turns: int,
) -> Cell:
    await until_idle(client)
    before = {p.name: p.resident_bytes() for p in cluster.processes}
    cpu_s = cluster.router.cpu_s()
    outcome = await load(sessions, turns, sessions)
    cpu_s = cluster.router.cpu_s() - cpu_s
    is_idle_after = await until_idle(client)
    return Cell(
        topology=topology,
        sessions=sessions,
        turns=turns,
        failures=dict(outcome.failures),
        refusals=outcome.refusals,
        seconds=outcome.seconds,
        first_token_p50_s=median(outcome.first_token_s),
        first_token_p99_s=percentile(outcome.first_token_s, 99),
        router_cpu_s=cpu_s,
        reused_share=outcome.cached_tokens / max(outcome.prompt_tokens, 1),
        busiest_share=_busiest(outcome),
        is_idle_after=is_idle_after,
        grown_bytes={p.name: p.resident_bytes() - before[p.name] for p in cluster.processes},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The router alone, between workers that compute nothing and this process."""

    topology: str
    turns: int
    answer_tokens: int
    concurrent: int
    seconds: float
    router_cpu_s: float

    @property
    def cpu_ms_per_turn(self) -> float:
        return self.router_cpu_s / self.turns * 1e3

    @property
    def tokens_per_core_s(self) -> float:
        return self.turns * self.answer_tokens / self.router_cpu_s


Shape = tuple[int, int, int]
"""Turns, tokens per answer, concurrent turns."""


async def measure_relay(
    topology: Topology, *, model: str, code: Path, shapes: list[Shape]
) -> list[Relay]:
    with process_cluster(
        model,
        topology.settings,
        prefill=topology.prefill,
        decode=topology.decode,
        code=code,
        worker_command=("benchmarks.load.fakes",),
    ) as cluster:
        async with Client(cluster.address) as client:
            await until_ready(client, topology.prefill + topology.decode)
            # Like a router that has run for a while: all sessions are known.
            await relay_turns(client, 1_000, 1, max(concurrent for _, _, concurrent in shapes))
            return [await relay(str(topology), cluster, client, shape) for shape in shapes]


async def relay(topology: str, cluster: ProcessCluster, client: Client, shape: Shape) -> Relay:
    cpu_s, started_at = cluster.router.cpu_s(), time.monotonic()
    await relay_turns(client, *shape)
    seconds, cpu_s = time.monotonic() - started_at, cluster.router.cpu_s() - cpu_s
    turns, answer_tokens, concurrent = shape
    return Relay(
        topology=topology,
        turns=turns,
        answer_tokens=answer_tokens,
        concurrent=concurrent,
        seconds=seconds,
        router_cpu_s=cpu_s,
    )


async def relay_turns(client: Client, turns: int, answer_tokens: int, concurrent: int) -> None:
    left = iter(range(turns))
    stop = StopConditions(max_tokens=answer_tokens, ignore_eos=True)

    async def one_after_the_other(index: int) -> None:
        for number in left:
            prompt = TokenInput(tuple(range(300, 340)))
            answer = await client.generate(
                prompt, session_id=f"relay-{index}-{number % 7}", stop=stop
            )
            assert len(answer.token_ids) == answer_tokens

    async with asyncio.TaskGroup() as tasks:
        for index in range(concurrent):
            tasks.create_task(one_after_the_other(index))


async def until_ready(client: Client, num_workers: int) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                status = await client.status()
            except SegueError:
                await asyncio.sleep(0.1)
                continue
            if status.ready and len(status.workers) >= num_workers:
                return
            await asyncio.sleep(0.1)


async def until_idle(client: Client) -> bool:
    """False if something is still held after the longest allowed time."""
    return is_idle(await wait_until_idle(client, _IDLE_S))


def _busiest(outcome: Outcome) -> float:
    return max(outcome.decode_workers.values(), default=0) / max(outcome.num_turns, 1)
