"""The status page's routes, over a fake client whose router may be away."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from segue.api.cluster.explanation import Explanation, RecentTurn, WeighedCandidate
from segue.api.cluster.status import ClusterStatus, RouterStatus, WorkerStatus
from segue.api.errors import Overloaded, SegueError, Unauthenticated, Unavailable
from segue.api.types import Epoch, Role, SessionId, TurnId, WorkerId
from segue.gateway.ui.feed import Feed
from tests.gateway.faked import faked

EVERY_S = 0.01
CLUSTER = ClusterStatus(
    ready=True,
    model="demo",
    model_id="0123",
    workers=(
        WorkerStatus(
            worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(1), address="h:1"
        ),
    ),
    router=RouterStatus(address="h:7411", finished_turns=3),
)


def turn_of(session: str) -> RecentTurn:
    chosen = WeighedCandidate(
        mode="compute",
        prefill_worker=WorkerId("prefill-0"),
        decode_worker=WorkerId("decode-0"),
        chosen=True,
    )
    explanation = Explanation(
        session_id=SessionId(session),
        turn_id=TurnId(f"{session}-turn"),
        prompt_tokens=9,
        max_tokens=4,
        candidates=(chosen,),
        speeds=(),
        decision_s=1e-4,
        estimated_s=0.02,
    )
    return RecentTurn(explanation=explanation, num_candidates=1, age_s=1.5, outcome="running")


@dataclass
class FakeRouter:
    """Each key's turns are those of the session that is called like it."""

    keys: set[str] = field(default_factory=lambda: {"a", "b"})
    error: SegueError | None = None
    num_looks: int = 0

    def client(self, key: str) -> KeyClient:
        return KeyClient(self, key)

    def require(self, key: str) -> None:
        if key not in self.keys:
            raise Unauthenticated("this API key is not known here")
        if self.error is not None:
            raise self.error


@dataclass
class KeyClient:
    router: FakeRouter
    key: str

    async def status(self, *, timeout_s: float) -> ClusterStatus:
        self.router.require(self.key)
        self.router.num_looks += 1
        return CLUSTER

    async def recent_turns(self, max_turns: int, *, timeout_s: float) -> list[RecentTurn]:
        self.router.require(self.key)
        return [turn_of(self.key)]


@contextlib.asynccontextmanager
async def watching(feed: Feed, router: FakeRouter, key: str) -> AsyncIterator[AsyncIterator[Any]]:
    async with contextlib.aclosing(feed.documents(key, router.client(key))) as documents:
        yield (json.loads(document) async for document in documents)


async def test_the_page_is_one_document_and_may_run_its_own_script_only() -> None:
    response = await faked().http.get("/ui")
    policy = response.headers["content-security-policy"]

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    # Nothing comes from elsewhere, and nothing is parsed as markup.
    assert re.findall(r"(?:src|href)=\"(?!data:,\")", response.text) == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", response.text)


def luminance(colour: str) -> float:
    """Of #rrggbb or #rgb, by WCAG's formula."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def test_texts_have_the_contrast_that_readers_need_in_light_and_dark() -> None:
    text = (await faked().http.get("/ui")).text
    palettes = [
        dict(re.findall(r"--(\w+): (#\w+)", block))
        for block in re.findall(r":root \{(.*?)\}", text, re.S)
    ]

    assert len(palettes) == 2
    for palette in palettes:
        for name in ("text", "dim", "ok", "warn", "bad", "info"):
            for behind in ("back", "panel"):
                low, high = sorted((luminance(palette[name]), luminance(palette[behind])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, f"{name} on {behind}"


async def test_the_events_are_the_status_document_and_the_callers_turns() -> None:
    async with watching(Feed(every_s=EVERY_S), FakeRouter(), "a") as shown:
        first = await anext(shown)

    assert first["cluster"]["router"]["finished_turns"] == 3
    assert first["cluster"]["workers"][0]["worker_id"] == "decode-0"
    (turn,) = first["turns"]
    assert turn["explanation"]["session_id"] == "a"
    assert turn["end"] is None


async def test_all_viewers_share_one_look_and_without_any_there_is_none() -> None:
    feed, router = Feed(every_s=EVERY_S), FakeRouter()
    async with watching(feed, router, "a") as one, watching(feed, router, "b") as other:
        shown = await asyncio.gather(anext(one), anext(other))
        assert router.num_looks == 1
        assert [d["turns"][0]["explanation"]["session_id"] for d in shown] == ["a", "b"]
        await asyncio.gather(anext(one), anext(other))
        assert router.num_looks == 2

    assert feed.num_viewers == 0
    await asyncio.sleep(5 * EVERY_S)
    assert router.num_looks == 2


async def test_one_viewer_too_many_is_refused_until_another_leaves() -> None:
    feed, router = Feed(every_s=EVERY_S, max_viewers=1), FakeRouter()
    async with watching(feed, router, "a") as one:
        await anext(one)
        async with watching(feed, router, "b") as other:
            with pytest.raises(Overloaded, match="1 viewers"):
                await anext(other)

    async with watching(feed, router, "b") as other:
        assert (await anext(other))["turns"]


async def test_a_router_that_is_away_is_said_to_be_and_comes_back() -> None:
    feed, router = Feed(every_s=EVERY_S), FakeRouter()
    async with watching(feed, router, "a") as shown:
        await anext(shown)
        router.error = Unavailable("connection refused")
        while "away" not in (gone := await anext(shown)):
            pass
        router.error = None
        while "away" in (back := await anext(shown)):
            pass

    assert gone["away"] == "connection refused"
    assert gone["away_s"] >= 0
    assert back["cluster"]["ready"]


async def test_a_key_that_is_revoked_ends_its_own_streams_only() -> None:
    feed, router = Feed(every_s=EVERY_S), FakeRouter()
    async with watching(feed, router, "a") as revoked, watching(feed, router, "b") as other:
        await asyncio.gather(anext(revoked), anext(other))
        router.keys.remove("a")

        with pytest.raises(Unauthenticated):
            _ = [document async for document in revoked]
        assert (await anext(other))["cluster"]["ready"]


async def test_a_gateway_that_ends_ends_its_streams() -> None:
    feed = Feed(every_s=EVERY_S)
    async with watching(feed, FakeRouter(), "a") as shown:
        await anext(shown)
        feed.close()

        assert [document async for document in shown] == []


async def test_an_error_of_our_own_ends_the_streams_with_it() -> None:
    feed, router = Feed(every_s=EVERY_S), FakeRouter()
    router.client = lambda key: replace(KeyClient(router, key), router=None)  # type: ignore[arg-type, method-assign, type-var]
    async with watching(feed, router, "a") as shown:
        with pytest.raises(AttributeError):
            await anext(shown)


async def test_the_stream_is_server_sent_events_until_the_gateway_ends() -> None:
    client, router = faked(), FakeRouter(keys={""})
    client.feed._every_s = EVERY_S
    client.client.status = router.client("").status  # type: ignore[attr-defined]
    client.client.recent_turns = router.client("").recent_turns  # type: ignore[attr-defined]
    streaming = asyncio.ensure_future(client.http.get("/ui/events"))
    while router.num_looks < 2:
        await asyncio.sleep(EVERY_S / 10)
    client.feed.close()
    response = await streaming

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    name, data, *_ = response.text.split("\n")
    assert name == "event: status"
    assert json.loads(data.removeprefix("data: "))["cluster"]["model"] == "demo"
    assert client.feed.num_viewers == 0


async def test_the_stream_needs_a_key_and_the_page_none() -> None:
    client = faked()
    client.client.known_key = "sk-right"

    assert (await client.http.get("/ui")).status_code == 200
    assert (await client.http.get("/ui/events")).status_code == 401
