"""Several gateway processes on one port, and what a client notices when one dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from segue.api.errors import InvalidConfig
from segue.gateway.__main__ import running_alone
from segue.gateway.config import GatewayConfig
from segue.gateway.serving.http_server import listening
from segue.gateway.serving.supervisor import Several
from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count from 1 to 40."}],
    "temperature": 1.0,
    "seed": 11,
    "return_token_ids": True,
    "stream_options": {"include_usage": True},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two(live: Live) -> AsyncIterator[Several]:
    config = GatewayConfig(port=0, processes=2, drain_s=2.0)
    async with running_alone(config, live.cluster.client.target) as several:
        assert isinstance(several, Several)
        yield several


def client_of(several: Several) -> httpx2.AsyncClient:
    """Its own connection, so a process of the system's choice."""
    return httpx2.AsyncClient(base_url=f"http://{several.address}", timeout=60.0)


async def counted(several: Several) -> tuple[float, float]:
    """The answers to POST, and the requests in flight."""
    async with client_of(several) as http:
        text = (await http.get("/metrics")).text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    answers = [
        one.value
        for one in samples
        if one.name == "segue_http_requests_total" and one.labels["route"].startswith("/v1/")
    ]
    (in_flight,) = [one.value for one in samples if one.name == "segue_http_requests_in_flight"]
    return sum(answers), in_flight


async def test_a_response_goes_on_at_any_of_them_and_metrics_are_sums(two: Several) -> None:
    assert len(set(two.pids)) == 2
    before, _ = await counted(two)
    previous = ""
    for text in ("My code is 731.", *["What is my code?"] * 5):
        async with client_of(two) as http:
            body = {"input": text, "temperature": 0, "previous_response_id": previous}
            response = await http.post("/v1/responses", json=body)
            assert response.status_code == 200, response.text
            previous = response.json()["id"]
    async with client_of(two) as http:
        stored = (await http.get(f"/v1/responses/{previous}")).json()
        assert (await http.delete(f"/v1/responses/{previous}")).json()["deleted"]
    async with client_of(two) as http:
        assert (await http.get(f"/v1/responses/{previous}")).status_code == 404

    assert "731" in json.dumps(stored["output"])
    after, in_flight = await counted(two)
    assert after - before == 9
    # This request for metrics.
    assert in_flight == 1


async def streamed(several: Several, tokens: list[int], *, kills_after: int = 0) -> Any:
    """Adds an answer's tokens to `tokens`, and returns its usage. `kills_after`: so many tokens, it
    kills the process that sends them.
    """
    usage = None
    async with (
        client_of(several) as http,
        http.stream("POST", CHAT, json={**ASKED, "stream": True}) as response,
    ):
        stream = response.extensions["network_stream"]
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            for choice in chunk["choices"]:
                tokens += choice.get("token_ids") or []
            usage = chunk["usage"] or usage
            if kills_after and len(tokens) >= kills_after:
                port = stream.get_extra_info("socket").getsockname()[1]
                os.kill(owner_of(port, several), signal.SIGKILL)
                kills_after = 0
    return usage


def owner_of(port: int, several: Several) -> int:
    """The process at the other end of the connection from this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if row[2].endswith(f":{port:04X}")]
    for pid in several.pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return pid
    raise LookupError(port)


async def test_a_repeated_request_computes_little_after_its_gateway_died(two: Several) -> None:
    """In mid-answer. Its sibling answers, from the seed, with the same tokens."""
    pids, (before, _) = two.pids, await counted(two)
    cut: list[int] = []
    with pytest.raises(httpx2.TransportError):
        await streamed(two, cut, kills_after=9)
    tokens: list[int] = []
    usage = await streamed(two, tokens)

    assert 9 <= len(cut) < len(tokens)
    assert tokens[: len(cut)] == cut
    # All of the prompt but the page of its last token.
    whole_pages = (usage["prompt_tokens"] - 1) // 16 * 16
    assert usage["prompt_tokens_details"]["cached_tokens"] >= whole_pages > 0

    async with asyncio.timeout(30):
        while len(set(two.pids) - set(pids)) != 1:
            await asyncio.sleep(0.05)
    # Counters do not fall, and nothing is in flight at a process that is no more.
    after, in_flight = await counted(two)
    assert (after - before, in_flight) == (1, 1)


async def test_the_port_is_theirs_alone(two: Several) -> None:
    with pytest.raises(InvalidConfig, match="cannot serve HTTP"):
        listening(GatewayConfig(port=two.port))
    with pytest.raises(InvalidConfig, match="cannot serve HTTP"):
        async with running_alone(GatewayConfig(port=two.port, processes=2), "127.0.0.1:1"):
            pass


async def test_a_drain_of_one_is_a_drain_of_all(two: Several) -> None:
    asked = asyncio.ensure_future(two.drain_asked())
    await asyncio.sleep(0)
    assert not asked.done()
    async with client_of(two) as http:
        assert (await http.post("/drain")).status_code == 200
    async with asyncio.timeout(10):
        await asked
