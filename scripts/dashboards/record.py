"""Draws all dashboards from a run: `python -m scripts.dashboards.record FOLDER [--seconds 60]`.

It starts a cluster on the demo model and a Prometheus that scrapes it, sends turns to the cluster,
and draws each panel from Prometheus. Exits with status 1 if a panel is empty that must not be.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from router.config import RouterConfig
from scripts.dashboards.boards import BOARDS
from scripts.dashboards.panels import Dashboard
from scripts.dashboards.picture import draw
from scripts.dashboards.prometheus import running_prometheus, wait_for
from segue.api.types import StopConditions
from segue.engine.config import EngineConfig
from segue.gateway.config import GatewayConfig
from segue.launch.cluster import running_cluster
from segue.launch.config import ClusterConfig, Config
from segue.sdk.client import Client

RULES = sorted((Path(__file__).parents[2] / "deploy" / "prometheus").glob("*.rules.yml"))
CONFIG = Config(
    cluster=ClusterConfig(prefill=1, decode=2),
    gateway=GatewayConfig(port=0),
    router=RouterConfig(port=0, drain_s=5.0),
    engine=EngineConfig(max_running=8, cache_bytes=64 << 20, num_threads=1),
)
INTERVAL = "15s"
"""The window of rates. Prometheus scrapes once a second here."""
_SESSIONS = 4
_MARGIN_S = 5.0
_TEXTS = (
    "My name is Anna and I live in Lisbon.",
    "Count from 1 to 40.",
    "Where do I live? " * 40,
    "Say brillig 3 times.",
    "What is a page? What is a slot?",
)


async def converse(client: Client, number: int, until: float) -> None:
    """One conversation after another: short messages and long ones, so that some prompts are
    computed by prefill workers and some by decode workers."""
    for round_number in itertools.count():
        session = client.session(system="Be brief. " + f"Fact {number}, {round_number}. " * 40)
        for text in _TEXTS:
            if time.monotonic() > until:
                return
            async for _ in session.turn(text, stop=StopConditions(max_tokens=120)):
                pass
            # As long as a quick tool takes.
            await asyncio.sleep(0.1 * (number + 1))


def chat(gateway: str) -> None:
    body = {"messages": [{"role": "user", "content": "Count from 1 to 20."}], "max_tokens": 60}
    request = urllib.request.Request(
        f"http://{gateway}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        reply.read()


async def over_http(gateway: str, until: float) -> None:
    while time.monotonic() < until:
        await asyncio.to_thread(chat, gateway)
        await asyncio.sleep(0.5)


async def record(
    target: str,
    gateways: Sequence[str],
    folder: Path,
    seconds: float,
    boards: Sequence[Dashboard] = BOARDS,
) -> list[str]:
    """Sends turns to the routers and gateways at these addresses, and draws each dashboard as
    FOLDER/NAME.png. Returns the panels that should not be empty."""
    empty: list[str] = []
    async with Client(target) as client:
        status = await client.status()
        jobs: tuple[dict[str, object], ...] = (
            {"http_sd_configs": [{"url": f"http://{status.router.metrics_address}/targets"}]},
            {"static_configs": [{"targets": list(gateways)}]},
        )
        with (
            tempfile.TemporaryDirectory() as data,
            running_prometheus(Path(data), *jobs, rule_files=RULES) as address,
        ):
            num_targets = 1 + len(status.workers) + len(gateways)
            await wait_for(address, "up == 1", num_targets)
            started_at = time.monotonic()
            until = started_at + seconds
            async with asyncio.TaskGroup() as tasks:
                for number in range(_SESSIONS):
                    tasks.create_task(converse(client, number, until))
                tasks.create_task(over_http(gateways[0], until))
            minutes = (time.monotonic() - started_at + _MARGIN_S) / 60
            for board in boards:
                silent = await asyncio.to_thread(
                    draw,
                    address,
                    board,
                    folder / f"{board.name}.png",
                    minutes=minutes,
                    interval=INTERVAL,
                )
                empty += [f"{board.name}: {panel.title}" for panel in silent if not panel.empty_if]
    return empty


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.dashboards.record")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    names = [board.name for board in BOARDS]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    given = parser.parse_args(arguments)
    boards = [board for board in BOARDS if board.name in (given.only or names)]
    given.folder.mkdir(parents=True, exist_ok=True)
    with running_cluster(CONFIG, lambda stage: print(stage, file=sys.stderr)) as cluster:  # noqa: T201
        addresses = cluster.address, cluster.http_addresses
        empty = asyncio.run(record(*addresses, given.folder, given.seconds, boards))
    for name in empty:
        print(f"empty: {name}", file=sys.stderr)  # noqa: T201
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
