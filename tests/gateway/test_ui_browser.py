"""The status page in a real browser, before a cluster that has answered turns.

SEGUE_STATUS_PICTURE=docs/images/status-page.png keeps the picture that README shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.gateway.browser import CHROMIUM, Tab, tab
from tests.gateway.conftest import Live

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
MARKUP = "<img src=x onerror=alert(1)>"
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


@pytest_asyncio.fixture(loop_scope="session")
async def page(live: Live) -> AsyncIterator[Tab]:
    for name in ("release-notes", "audit-7", "fix-flaky-test"):
        await take_turns(live, name, 3)
    async with tab() as opened:
        await opened.show_as(width=1280, height=800, scheme="light")
        await opened.call("Page.navigate", url=f"{live.url}/ui")
        await opened.wait_until("document.querySelectorAll('#turns .fall i.decode').length >= 4")
        yield opened


async def test_workers_and_waterfalls_are_shown_without_errors(page: Tab, tmp_path: Path) -> None:
    workers = await page.evaluate(
        "[...document.querySelectorAll('#workers tbody tr')].map((row) => row.innerText)"
    )
    assert len(workers) == 2
    assert all("ready" in row for row in workers)
    assert await page.evaluate("document.querySelectorAll('#turns .fall i.prefill').length") >= 4
    await page.evaluate("document.querySelector('#turns summary').click()")
    await page.wait_until("document.querySelector('#turns .why tr.chosen') !== null")

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
