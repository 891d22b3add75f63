"""A router without workers: its probes, its metrics, and how it refuses a turn."""

from __future__ import annotations

import asyncio
import http.client
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.__main__ import running
from router.config import RouterConfig
from segue.api.errors import Unavailable
from segue.api.types import TextInput, TurnInput
from segue.sdk.client import Client


def get(address: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path)
    reply = connection.getresponse()
    try:
        return reply.status, reply.read().decode()
    finally:
        connection.close()


async def test_it_is_alive_but_not_ready_and_counts_the_turns_that_it_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.router._JOINED_WITHIN_S", 0.0)
    turn_input: TurnInput = TextInput("Hello")
    async with running(RouterConfig(port=0, metrics_port=0), "demo") as router:
        async with Client(router.address) as client:
            with pytest.raises(Unavailable):
                await client.generate(turn_input)
        probes = [
            (await asyncio.to_thread(get, router.metrics_address, path))[0]
            for path in ("/livez", "/readyz", "/")
        ]
        _, text = await asyncio.to_thread(get, router.metrics_address, "/metrics")

    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert probes == [200, 503, 404]
    assert values["segue_turn_errors_total", "Unavailable"] == 1
    assert values["segue_turns_total", "failed"] == 1
    assert values["segue_no_first_token_seconds_count", "failed"] == 1
    assert values["segue_turn_seconds_count", "failed"] == 1


async def test_a_turn_waits_for_the_workers_of_a_router_that_has_just_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.router._JOINED_WITHIN_S", 1.2)
    async with (
        running(RouterConfig(port=0, metrics_port=0), "demo") as router,
        Client(router.address) as client,
    ):
        began_at = time.monotonic()
        with pytest.raises(Unavailable, match="no prefill worker is ready"):
            await client.generate(TextInput("Hello"))
        waited_s = time.monotonic() - began_at
        began_at = time.monotonic()
        with pytest.raises(Unavailable, match="no prefill worker is ready"):
            await client.generate(TextInput("Hello"))

    assert waited_s > 1.0
    assert time.monotonic() - began_at < 1.0
