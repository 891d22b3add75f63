"""`python -m benchmarks.tls`: the cost of TLS on all of a router's connections.

Two clusters of a router and workers that compute nothing, one with TLS and certificates on every
connection and one without; both with a secret. Rounds alternate between them, so that other load
affects both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import tempfile
from pathlib import Path

import typer

from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import markdown, show_json
from benchmarks.harness.processes import ProcessCluster, process_cluster
from benchmarks.harness.samples import median
from benchmarks.load.measure import Relay, Topology, relay, relay_turns, until_ready
from scripts.test_ca import write_all
from segue.demo import checkpoint_dir
from segue.sdk.client import Client
from segue.security.secret import ENVIRONMENT, ClusterSecret
from segue.security.tls import Tls

SHAPES = [(200, 1, 1), (1_000, 1, 64), (600, 8, 64), (128, 256, 64)]
_ENDS = {"certificate": "pem", "key": "key"}
_TOPOLOGY = Topology(prefill=1, decode=1, is_local=True)


async def measure(rounds: int) -> dict[bool, list[Relay]]:
    """Without TLS and with it."""
    os.environ[ENVIRONMENT] = ClusterSecret.random().text
    measured: dict[bool, list[Relay]] = {False: [], True: []}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-tls-")))
        write_all(folder)
        tls = Tls(
            ca=str(folder / "ca.pem"),
            **{name: str(folder / f"server.{end}") for name, end in _ENDS.items()},
        )
        clusters = {of: await _started(stack, tls if of else None) for of in (False, True)}
        for shape in SHAPES:
            for number in range(rounds):
                for has_tls in (False, True) if number % 2 else (True, False):
                    seen = await relay(str(_TOPOLOGY), *clusters[has_tls], shape)
                    measured[has_tls].append(seen)
    return measured


async def _started(
    stack: contextlib.AsyncExitStack, tls: Tls | None
) -> tuple[ProcessCluster, Client]:
    cluster = stack.enter_context(
        process_cluster(
            str(checkpoint_dir()),
            _TOPOLOGY.settings + (_section(tls) if tls else ""),
            worker_command=("benchmarks.load.fakes",),
        )
    )
    client = await stack.enter_async_context(Client(cluster.address, tls=tls))
    await until_ready(client, 2)
    await relay_turns(client, 1_000, 1, 64)
    return cluster, client


def _section(tls: Tls) -> str:
    paths = {name: getattr(tls, name) for name in ("ca", *_ENDS)}
    return "[security]\n" + "".join(
        f"{name} = {json.dumps(path)}\n" for name, path in paths.items()
    )


def table(measured: dict[bool, list[Relay]]) -> str:
    """Medians of the rounds. The ratio is that of the router's time in a round with TLS to that in
    the round without it next to it.
    """
    rows = []
    for shape in SHAPES:
        _, answer_tokens, concurrent = shape
        plain, encrypted = (
            [one for one in relays if (one.turns, one.answer_tokens, one.concurrent) == shape]
            for relays in measured.values()
        )
        ratio = median(
            [b.router_cpu_s / a.router_cpu_s for a, b in zip(plain, encrypted, strict=True)]
        )
        for name, rounds in (("plain", plain), ("TLS", encrypted)):
            per_s = median([one.turns / one.seconds for one in rounds])
            rows.append(
                (
                    str(answer_tokens),
                    str(concurrent),
                    name,
                    f"{per_s:.0f}",
                    f"{concurrent / per_s * 1e3:.2f}",
                    f"{median([one.cpu_ms_per_turn for one in rounds]):.3f}",
                    f"{median([one.tokens_per_core_s for one in rounds]):,.0f}",
                    f"×{ratio:.2f}" if name == "TLS" else "",
                )
            )
    return markdown(
        "tokens each | at a time |  | turns/s | ms a turn, seen by the client"
        " | router ms a turn | tokens/s a core of the router | ratio",
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls")
    parser.add_argument("--rounds", type=int, default=10)
    measured = asyncio.run(measure(parser.parse_args().rounds))
    typer.echo(table(measured))
    show_json(
        {
            "environment": dataclasses.asdict(this_environment()),
            "rounds": [
                {"has_tls": has_tls, **dataclasses.asdict(one)}
                for has_tls, relays in measured.items()
                for one in relays
            ],
        }
    )


if __name__ == "__main__":
    main()
