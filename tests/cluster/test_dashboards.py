"""Every panel and every rule has an answer in a real Prometheus that scrapes a real cluster."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from scripts.dashboards.boards import BOARDS
from scripts.dashboards.panels import Panel
from scripts.dashboards.picture import draw
from scripts.dashboards.prometheus import ask, query, running_prometheus, wait_for
from segue.api.types import StopConditions
from segue.launch.cluster import Cluster
from segue.sdk.client import Client

pytestmark = pytest.mark.slow

RULES = sorted((Path(__file__).parents[2] / "deploy" / "prometheus").glob("*.rules.yml"))
# All that the test has done, however slow the machine is.
INTERVAL = "10m"


async def talk(client: Client) -> None:
    """Turns of one session, with prompts that grow beyond what decode computes itself."""
    session = client.session(system="Be brief. " + "Facts matter. " * 150)
    for text in ("My city is Lisbon.", "Count from 1 to 30.", "What is my city? " * 60):
        async for _ in session.turn(text, stop=StopConditions(max_tokens=60)):
            pass


def is_empty(address: str, expression: str) -> bool:
    found = query(address, expression.replace("$__rate_interval", INTERVAL))
    return all(math.isnan(float(series["value"][1])) for series in found)


def silent(address: str, panel: Panel) -> list[str]:
    return [one.expression for one in panel.queries if is_empty(address, one.expression)]


async def test_panels_and_rules_have_answers(ray_cluster: Cluster, tmp_path: Path) -> None:
    async with Client(ray_cluster.address) as client:
        status = await client.status()
        jobs = (
            {"http_sd_configs": [{"url": f"http://{status.router.metrics_address}/targets"}]},
            {"static_configs": [{"targets": list(ray_cluster.http_addresses)}]},
        )
        with running_prometheus(tmp_path, *jobs, rule_files=RULES) as address:
            await wait_for(address, "up == 1", 6)
            # Rates compare two scrapes, so some turns run after the first.
            await talk(client)
            await asyncio.gather(*(talk(client) for _ in range(4)))
            last = 'segue_turns_total{outcome=~"stop|length"}'
            await wait_for(address, f"sum({last}) >= 15", 1)
            groups = (await asyncio.to_thread(ask, address, "rules"))["groups"]
            empty = {
                f"{board.name}: {panel.title}": silent(address, panel)
                for board in BOARDS
                for panel in board.panels
                if not panel.empty_if
            }
            for board in BOARDS:
                picture = tmp_path / f"{board.name}.png"
                await asyncio.to_thread(
                    draw, address, board, picture, minutes=1.0, interval=INTERVAL
                )
                assert picture.read_bytes().startswith(b"\x89PNG")
            always = [
                f"{board.name}: {panel.title}"
                for board in BOARDS
                for panel in board.panels
                if panel.empty_if == "no gateway is scraped"
                and panel.queries[0].expression.startswith("sum by (instance)")
                and silent(address, panel)
            ]

    assert {name: queries for name, queries in empty.items() if queries} == {}
    assert always == []
    unhealthy = [r["name"] for group in groups for r in group["rules"] if r["health"] == "err"]
    assert (len(groups), unhealthy) == (6, [])
