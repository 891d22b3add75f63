"""Requests made from /openapi.json, valid and invalid ones, by schemathesis: whatever it tries, the
gateway answers in time, and never with a bug of ours.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode

from segue.gateway.app import ROUTES
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Far more than any of these answers takes.
TIMEOUT_S = 20.0
ASKED: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Hello"}],
    "prompt": "Hello",
    "input": "Hello",
}
# Its stream ends when its reader leaves.
ENDLESS = "/ui/events"
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


async def test_every_route_is_described(live: Live) -> None:
    paths = (await live.http.get("/openapi.json")).json()["paths"]

    described = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert described == {(route.method, route.path.replace(":path", "")) for route in ROUTES}


@pytest.mark.parametrize(
    "num_requests", [5, pytest.param(400, marks=pytest.mark.slow)], ids=["some", "many"]
)
async def test_no_request_that_the_schema_describes_is_our_bug(
    live: Live, num_requests: int
) -> None:
    schema = schemathesis.openapi.from_dict((await live.http.get("/openapi.json")).json())
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == ENDLESS:
            continue
        modes = list(GenerationMode) if operation.body else [GenerationMode.POSITIVE]
        statuses[operation.path] = set()
        for mode in modes:
            statuses[operation.path] |= await asyncio.to_thread(
                statuses_of, operation, mode, live.url, num_requests
            )

    assert {*statuses, ENDLESS} == {route.path.replace(":path", "") for route in ROUTES}
    assert all({200, 404} & seen for seen in statuses.values()), statuses
    assert is_idle(await wait_until_idle(live.cluster.client))


def statuses_of(operation: Any, mode: GenerationMode, url: str, num_requests: int) -> set[int]:
    """The statuses of this many requests. Blocks."""
    seen = set()

    @settings(
        max_examples=num_requests,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            complete(case.body, operation.body[0].definition["schema"]["properties"])
        seen.add(status_of(case, url))

    ask()
    return seen


def status_of(case: Case, url: str) -> int:
    """Fails if the answer is a bug of ours."""
    shorten(case.body)
    response = case.call(base_url=url, timeout=TIMEOUT_S)
    assert response.status_code < 500, (response.text, case.as_curl_command())
    if response.status_code >= 400:
        assert response.json()["error"]["message"], case.as_curl_command()
    return int(response.status_code)


def complete(body: dict[str, Any], properties: dict[str, Any]) -> None:
    """Replaces what the schema does not describe, so that some requests are served."""
    given = body.keys() & ASKED.keys()
    for name in body.keys() & properties.keys():
        if properties[name].get("x-segue") == "refused" or "type" not in str(properties[name]):
            del body[name]
    body |= {name: ASKED[name] for name in given}
    if "messages" in body:
        body.pop("prompt", None)


def shorten(body: Any) -> None:
    """An answer as long as the context takes seconds."""
    if not isinstance(body, dict) or not {"messages", "prompt", "input"} & body.keys():
        return
    for name in LIMITS:
        if not isinstance(limit := body.get(name), int) or limit > 4:
            body[name] = 4
