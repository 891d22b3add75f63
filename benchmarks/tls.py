"""`python -m benchmarks.tls`: what TLS on all of a router's connections costs.

Two clusters of a router and workers that compute nothing, one with TLS and certificates on every
connection and one without; both with a secret. Turns go to one and the other in turn, so that a
noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.load.measure import Topology, relay_turns, until_ready
from benchmarks.load.processes import ProcessCluster, process_cluster
from benchmarks.serving.environment import this_environment
from scripts.test_ca import write_all
from segue.demo import checkpoint_dir
from segue.sdk.client import Client
from segue.security.secret import ENVIRONMENT, ClusterSecret
from segue.security.tls import Tls

# Turns a round, tokens per answer, concurrent turns.
SHAPES = [(200, 1, 1), (1_000, 1, 64), (600, 8, 64), (128, 256, 64)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    has_tls: bool
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


async def measure(rounds: int) -> list[Round]:
    os.environ[ENVIRONMENT] = ClusterSecret.random().text
    topology = Topology(prefill=1, decode=1, is_local=True)
    measured = []
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-tls-")))
        write_all(folder)
        files = {name: str(folder / f"server.{end}") for name, end in _ENDS.items()}
        tls = Tls(ca=str(folder / "ca.pem"), **files)
        sections = {
            False: topology.settings,
            True: topology.settings + _section({"ca": tls.ca, **files}),
        }
        clusters: dict[bool, tuple[ProcessCluster, Client]] = {}
        for has_tls, settings in sections.items():
            cluster = stack.enter_context(
                process_cluster(
                    str(checkpoint_dir()),
                    settings,
                    prefill=1,
                    decode=1,
                    code=Path(__file__).parents[1],
                    worker_command=("benchmarks.load.fakes",),
                )
            )
            client = await stack.enter_async_context(
                Client(cluster.address, tls=tls if has_tls else None)
            )
            await until_ready(client, 2)
            await relay_turns(client, 1_000, 1, 64)
            clusters[has_tls] = cluster, client
        for turns, answer_tokens, concurrent in SHAPES:
            for number in range(rounds):
                for has_tls in (False, True) if number % 2 else (True, False):
                    cluster, client = clusters[has_tls]
                    cpu_s, started_at = cluster.router.cpu_s(), time.monotonic()
                    await relay_turns(client, turns, answer_tokens, concurrent)
                    measured.append(
                        Round(
                            has_tls=has_tls,
                            turns=turns,
                            answer_tokens=answer_tokens,
                            concurrent=concurrent,
                            seconds=time.monotonic() - started_at,
                            router_cpu_s=cluster.router.cpu_s() - cpu_s,
                        )
                    )
    return measured


_ENDS = {"certificate": "pem", "key": "key"}


def _section(files: dict[str, str]) -> str:
    return "[security]\n" + "".join(
        f"{name} = {json.dumps(path)}\n" for name, path in files.items()
    )


def table(measured: list[Round]) -> str:
    """Medians of the rounds. The ratio is that of the router's time in a round with TLS to that in
    the round without it next to it.
    """
    rows = [
        "| tokens each | at a time | | turns/s | ms a turn, seen by the client "
        "| router ms a turn | tokens/s a core of the router | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for turns, answer_tokens, concurrent in SHAPES:
        of_shape = [
            one
            for one in measured
            if (one.turns, one.answer_tokens, one.concurrent) == (turns, answer_tokens, concurrent)
        ]
        plain, encrypted = ([one for one in of_shape if one.has_tls is it] for it in (False, True))
        ratio = statistics.median(
            b.router_cpu_s / a.router_cpu_s for a, b in zip(plain, encrypted, strict=True)
        )
        for has_tls, rounds in ((False, plain), (True, encrypted)):
            per_s = statistics.median(one.turns / one.seconds for one in rounds)
            rows.append(
                f"| {answer_tokens} | {concurrent} | {'TLS' if has_tls else 'plain'} "
                f"| {per_s:.0f} | {concurrent / per_s * 1e3:.2f} "
                f"| {statistics.median(one.cpu_ms_per_turn for one in rounds):.3f} "
                f"| {statistics.median(one.tokens_per_core_s for one in rounds):,.0f} "
                f"| {f'×{ratio:.2f}' if has_tls else ''} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls")
    parser.add_argument("--rounds", type=int, default=10)
    measured = asyncio.run(measure(parser.parse_args().rounds))
    result = {
        "environment": dataclasses.asdict(this_environment()),
        "rounds": [dataclasses.asdict(one) for one in measured],
    }
    sys.stdout.write(f"{table(measured)}\n{json.dumps(result)}\n")


if __name__ == "__main__":
    main()
