"""The status page in a real browser, before a cluster that has answered turns.

SEGUE_STATUS_PICTURE=docs/images/status-page.png keeps the picture that README shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from segue.api.cluster.explanation import RecentTurn
from segue.api.cluster.status import ClusterStatus
from segue.api.errors import SegueError, Unavailable
from segue.gateway.__main__ import running_before
from segue.gateway.config import GatewayConfig
from segue.sdk.client import Client
from tests.gateway.browser import CHROMIUM, Tab, tab
from tests.gateway.conftest import Live
from tests.gateway.fake_client import FakeClient, says
from tests.gateway.test_ui import CLUSTER, turn_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
MARKUP = "<img src=x onerror=alert(1)>"
LIVE = "document.querySelector('#link').textContent === 'live'"
PNG = b"\x89PNG\r\n\x1a\n"


async def take_turns(live: Live, name: str, number: int) -> None:
    """A conversation."""
    history: list[dict[str, Any]] = []
    for turn in range(number):
        told = " ".join(f"Agent {one} read file {one * 7 + turn}." for one in range(40))
        history.append({"role": "user", "content": f"{told} Count from 1 to 60."})
        body = {"model": "demo", "messages": history, "max_tokens": 24 + 40 * turn}
        answer = await live.http.post(
            "/v1/chat/completions", json=body, headers={"x-session-id": name}
        )
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["message"]["content"]
        history.append({"role": "assistant", "content": text})


async def nameless(page: Tab) -> list[str]:
    """The roles of what a screen reader meets and has no words for."""
    tree = await page.call("Accessibility.getFullAXTree")
    shown = [node for node in tree["nodes"] if not node["ignored"]]
    assert {"table", "list", "radio", "image"} <= {node["role"]["value"] for node in shown}
    spoken = ("button", "radio", "textbox", "image", "DisclosureTriangle")
    roles = [n["role"]["value"] for n in shown if not n.get("name", {}).get("value")]
    return [role for role in roles if role in spoken]


@pytest_asyncio.fixture(loop_scope="session")
async def page(live: Live) -> AsyncIterator[Tab]:
    for name in ("release-notes", "audit-7", "fix-flaky-test"):
        await take_turns(live, name, 3)
    async with tab() as opened:
        await opened.show_as(width=1280, height=800, scheme="light")
        await opened.open(f"{live.url}/ui")
        await opened.wait_until("document.querySelectorAll('#turns .fall i.decode').length >= 4")
        yield opened


async def test_workers_and_waterfalls_are_shown_without_errors(page: Tab, tmp_path: Path) -> None:
    workers = await page.evaluate(
        "[...document.querySelectorAll('#workers tbody tr')].map((row) => row.innerText)"
    )
    assert len(workers) == 2
    assert all("ready" in row for row in workers)
    assert await page.evaluate("document.querySelectorAll('#turns .fall i.prefill').length") >= 4
    await page.evaluate("document.querySelector('#turns li:nth-last-child(2) summary').click()")
    await page.wait_until("document.querySelector('#turns .why tr.chosen') !== null")

    assert await nameless(page) == []
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "dark")):
        await page.show_as(width=width, height=800, scheme=scheme)
        await asyncio.sleep(1.2)
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(overflow) <= 0, f"{width} px"
        picture = await page.png()
        assert picture.startswith(PNG)
        path = tmp_path / f"{width}-{scheme}.png"
        path.write_bytes(picture)
        if (width, scheme) == (1280, "light") and (kept := os.environ.get("SEGUE_STATUS_PICTURE")):
            Path(kept).write_bytes(picture)
    assert page.errors == []


async def test_a_sessions_name_is_a_text_whatever_it_looks_like(page: Tab, live: Live) -> None:
    await take_turns(live, MARKUP, 1)

    await page.wait_until(f"document.querySelector('#turns').textContent.includes('{MARKUP}')")
    assert await page.evaluate("document.querySelectorAll('#turns img').length") == 0
    assert page.errors == []


class KeyedClient(FakeClient):
    """Of a router that knows one key, and may be away."""

    target = "fake"
    away: SegueError | None = None

    async def status(self, *, timeout_s: float) -> ClusterStatus:
        if self.away is not None:
            raise self.away
        return CLUSTER

    async def recent_turns(self, max_turns: int, *, timeout_s: float) -> list[RecentTurn]:
        return [turn_of(self.api_key or "")]


async def test_the_page_asks_for_a_key_and_outlives_its_router_and_its_gateway() -> None:
    client = KeyedClient(says(), known_key="sk-right")
    at = GatewayConfig(port=0)
    async with tab() as page:
        async with running_before(cast(Client, client), at) as gateway:
            await page.open(f"http://{gateway.address}/ui")
            await page.wait_until("!document.querySelector('#ask').hidden")
            for key in ("sk-wrong", "sk-right"):
                await page.evaluate(
                    f"document.querySelector('#key').value = '{key}';"
                    "document.querySelector('#ask button').click()"
                )
                if key == "sk-wrong":
                    await page.wait_until("document.querySelector('#refused').textContent !== ''")
            await page.wait_until("document.querySelector('#turns').innerText.includes('running')")
            assert "sk-right" in await page.evaluate("document.querySelector('#turns').innerText")

            client.away = Unavailable("connection refused")
            await page.wait_until("document.querySelector('#away').innerText.includes('refused')")
            client.away = None
            await page.wait_until(LIVE)
            ended_at = asyncio.get_running_loop().time()
        # An open page does not keep the gateway.
        assert asyncio.get_running_loop().time() - ended_at < at.drain_s / 2
        await page.wait_until("!document.querySelector('#away').hidden")
        async with running_before(cast(Client, client), replace(at, port=gateway.port)):
            await page.wait_until(LIVE)
        # What the network said is in the console, too.
        assert [error for error in page.errors if '"source": "network"' not in error] == []
