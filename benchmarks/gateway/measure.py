"""What the gateway adds to the first token and to each token, beside the gRPC client.

Router and gateway are real; the workers compute nothing and put the time into each token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway.clients import Answer, AskForTokens, OverGrpc, OverHttp
from benchmarks.load.measure import Topology, until_ready
from benchmarks.load.processes import Process, process_cluster
from segue.sdk.client import Client

_TOPOLOGY = Topology(prefill=1, decode=1, is_local=True)
_CODE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Quantiles:
    p50: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        ordered = sorted(values)

        def at(share: float) -> float:
            return ordered[min(int(len(ordered) * share), len(ordered) - 1)]

        return cls(at(0.5), at(0.99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    client: str
    step_s: float
    streams: int
    num_turns: int
    num_tokens: int
    seconds: float
    first_token_s: Quantiles
    """From the request on."""
    token_s: Quantiles
    """From the worker to the client, of every token."""
    gateway_cpu_s: float


async def measure(
    model: str, step_s: float, *, streams: Sequence[int], num_answers: int, num_tokens: int
) -> list[Cell]:
    """Both clients, for each number of streams: `num_answers` answers one after another."""
    cells = []
    with process_cluster(
        model,
        _TOPOLOGY.settings,
        prefill=1,
        decode=1,
        code=_CODE,
        worker_command=("benchmarks.load.fakes", "--step-s", str(step_s)),
        has_gateway=True,
    ) as cluster:
        assert cluster.gateway is not None
        host, _, port = cluster.http_address.rpartition(":")
        async with Client(cluster.address) as client:
            await until_ready(client, 2)
            http = OverHttp(host, int(port), (await client.model()).name)
            ways: list[tuple[str, AskForTokens]] = [("gRPC", OverGrpc(client)), ("HTTP", http)]
            for _, ask in ways:
                await _answers(ask, max(streams), 1, num_tokens=16)
            for number in streams:
                for name, ask in ways:
                    cells.append(
                        await _cell(
                            cluster.gateway, name, ask, step_s, number, num_answers, num_tokens
                        )
                    )
            http.close()
    return cells


async def _cell(
    gateway: Process,
    name: str,
    ask: AskForTokens,
    step_s: float,
    streams: int,
    num_answers: int,
    num_tokens: int,
) -> Cell:
    cpu_s, started_at = gateway.cpu_s(), time.monotonic()
    answers = await _answers(ask, streams, num_answers, num_tokens=num_tokens)
    seconds = time.monotonic() - started_at
    took_s = [one for answer in answers for one in answer.took_s]
    assert len(took_s) == streams * num_answers * num_tokens
    return Cell(
        client=name,
        step_s=step_s,
        streams=streams,
        num_turns=len(answers),
        num_tokens=len(took_s),
        seconds=seconds,
        first_token_s=Quantiles.of([answer.first_at - answer.asked_at for answer in answers]),
        token_s=Quantiles.of(took_s),
        gateway_cpu_s=gateway.cpu_s() - cpu_s if name == "HTTP" else 0.0,
    )


async def _answers(
    ask: AskForTokens, streams: int, num_answers: int, *, num_tokens: int
) -> list[Answer]:
    async def one_after_another(index: int) -> list[Answer]:
        # Streams of users do not start together.
        await asyncio.sleep(index * 0.005)
        return [await ask(num_tokens) for _ in range(num_answers)]

    answers = await asyncio.gather(*map(one_after_another, range(streams)))
    return [one for some in answers for one in some]
