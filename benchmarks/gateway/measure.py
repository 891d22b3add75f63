"""The time that the gateway adds to the first token and to each token, against the gRPC client.

Router and gateway are real; the workers compute nothing and put the time into each token.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gateway.clients import AskForTokens, OverHttp, Unread, over_grpc
from benchmarks.harness.processes import ProcessCluster, process_cluster
from benchmarks.harness.samples import Percentiles
from benchmarks.load.measure import Topology, until_ready
from segue.sdk.client import Client

_TOPOLOGY = Topology(prefill=1, decode=1, is_local=True)
SPREAD, AT_ONCE = "spread", "at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The requests of one or several cells."""

    streams: Sequence[int]
    num_answers: int
    """Of each stream, sent one after another."""
    num_tokens: int
    """Of each answer."""
    clients: Sequence[str] = ("gRPC", "HTTP")
    arrivals: str = AT_ONCE
    """`spread`: the streams' first requests come at random times within one answer, and each stream
    pauses for a random time between two answers, a fifth of an answer on average. `at once`: all
    streams ask together, again and again."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    client: str
    arrivals: str
    gateways: int = 1
    """Processes on the gateway's port."""
    step_s: float
    streams: int
    num_turns: int
    num_tokens: int
    num_events: int
    """Events that carried tokens."""
    seconds: float
    first_token_s: Percentiles
    """Since the request."""
    token_s: Percentiles
    """From the worker to the client, for every token."""
    cpu_s: dict[str, float]
    """By process; `client` is this one, `machine` is all processes of the machine."""

    @property
    def busy(self) -> float:
        """The share of all cores' time that was used."""
        return self.cpu_s["machine"] / (self.seconds * (os.cpu_count() or 1))


async def measure(
    model: str, step_s: float, plans: Sequence[Plan], *, gateways: int = 1
) -> list[Cell]:
    """For each plan: each client, for each number of streams."""
    cells = []
    with process_cluster(
        model,
        f"{_TOPOLOGY.settings}\n[gateway]\nprocesses = {gateways}\n",
        worker_command=("benchmarks.load.fakes", "--step-s", str(step_s)),
        has_gateway=True,
    ) as cluster:
        host, _, port = cluster.http_address.rpartition(":")
        async with Client(cluster.address) as client:
            await until_ready(client, 2)
            http = OverHttp(host, int(port), (await client.model()).name)
            ways: dict[str, AskForTokens] = {"gRPC": over_grpc(client), "HTTP": http}
            most = max(number for plan in plans for number in plan.streams)
            warm = Plan(streams=(most,), num_answers=1, num_tokens=16)
            for ask in ways.values():
                await _answers(ask, most, warm, step_s)
            for plan in plans:
                for number in plan.streams:
                    for name in plan.clients:
                        cell = await _cell(cluster, name, ways[name], step_s, number, plan)
                        cells.append(replace(cell, gateways=gateways))
            http.close()
    return cells


async def _cell(
    cluster: ProcessCluster, name: str, ask: AskForTokens, step_s: float, streams: int, plan: Plan
) -> Cell:
    cpu_s, started_at = _cpu_s(cluster), time.monotonic()
    arrived = await _answers(ask, streams, plan, step_s)
    seconds = time.monotonic() - started_at
    spent_s = {process: now - cpu_s[process] for process, now in _cpu_s(cluster).items()}
    answers = [read() for read in arrived]
    took_s = [one for answer in answers for one in answer.took_s]
    assert len(took_s) == streams * plan.num_answers * plan.num_tokens
    return Cell(
        client=name,
        arrivals=plan.arrivals,
        step_s=step_s,
        streams=streams,
        num_turns=len(answers),
        num_tokens=len(took_s),
        num_events=sum(answer.num_events for answer in answers),
        seconds=seconds,
        first_token_s=Percentiles.of([answer.first_at - answer.asked_at for answer in answers]),
        token_s=Percentiles.of(took_s),
        cpu_s=spent_s,
    )


def _cpu_s(cluster: ProcessCluster) -> dict[str, float]:
    spent_s = {process.name: process.cpu_with_children_s() for process in cluster.processes}
    return {**spent_s, "client": time.process_time(), "machine": _machine_s()}


def _machine_s() -> float:
    """All time of all cores that was not idle."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def pauses_s(plan: Plan, streams: int, step_s: float) -> list[list[float]]:
    """How long each stream waits before each of its answers."""
    if plan.arrivals == AT_ONCE:
        return [[0.0] * plan.num_answers for _ in range(streams)]
    answer_s = plan.num_tokens * step_s
    # The same for both clients.
    draw = random.Random(plan.seed)
    return [
        [draw.uniform(0.0, answer_s)]
        + [draw.expovariate(5.0 / answer_s) for _ in range(plan.num_answers - 1)]
        for _ in range(streams)
    ]


async def _answers(ask: AskForTokens, streams: int, plan: Plan, step_s: float) -> list[Unread]:
    async def one_after_another(pauses: list[float]) -> list[Unread]:
        answers = []
        for pause_s in pauses:
            if pause_s:
                await asyncio.sleep(pause_s)
            answers.append(await ask(plan.num_tokens))
        return answers

    answers = await asyncio.gather(*map(one_after_another, pauses_s(plan, streams, step_s)))
    return [one for some in answers for one in some]
