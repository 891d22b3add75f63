"""A slow turn is explained by the dashboards and its trace: `segue serve`, an OTLP collector and
Prometheus. docs/operations.md tells the same story.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from openai import OpenAI

from scripts.dashboards.boards import BOARDS
from scripts.dashboards.panels import Panel
from scripts.dashboards.prometheus import exemplars, query, running_prometheus, wait_for
from scripts.traces import Collector, Seen, lines_of
from segue.sdk.client import Client
from tests.cluster.serving import serving

pytestmark = pytest.mark.slow

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
QUIET_S = 3.0
# Below the heartbeat's timeout: the worker is not lost.
STOPPED_S = 1.2
# Above it.
LOST_S = 3.0
WINDOW = "30s"

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    collector.start()
    yield collector
    collector.stop()


def trace_of(collector: Collector, trace_id: str) -> list[Seen]:
    deadline_at = time.monotonic() + 60
    while time.monotonic() < deadline_at:
        for spans in collector.take_quiet(QUIET_S):
            if spans[0].trace_id == trace_id:
                return spans
        time.sleep(0.1)
    raise AssertionError("no trace came")


def environment(collector: Collector) -> Mapping[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


def ask(url: str, trace_id: str, text: str) -> None:
    with OpenAI(base_url=url, api_key="none") as client:
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": text}],
            max_tokens=8,
            extra_headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"},
        )


def test_a_slow_turn_is_explained_by_its_trace(tmp_path: Path, collector: Collector) -> None:
    with serving(tmp_path, environment=environment(collector)) as served:
        served.address()
        url = served.wait_for(r'base_url="(\S+?)"')[1]
        ask(url, TRACE_ID, "Hello! Who are you?")
        spans = trace_of(collector, TRACE_ID)
        processes = {span.process.partition("-")[0]: span for span in spans}
        assert set(processes) == {"gateway", "router", "prefill", "decode"}
        assert {"place", "reserve", "transfer", "commit", "decode"} <= {s.name for s in spans}

        slow = TRACE_ID[::-1]
        prefill = served.pid("prefill-0")
        os.kill(prefill, signal.SIGSTOP)
        threading.Timer(STOPPED_S, os.kill, (prefill, signal.SIGCONT)).start()
        ask(url, slow, "Count from 1 to 30. " * 40)
        spans = trace_of(collector, slow)
        served.end()

    waterfall = "\n".join(lines_of(spans))
    by_name = {span.name: span for span in spans}
    # Decode had reserved memory at once, and waited for a prompt that prefill took up late.
    late_s = by_name["prefill"].started_at - by_name["reserve"].ended_at
    assert late_s > STOPPED_S / 2, waterfall
    assert by_name["receive"].seconds > late_s, waterfall
    assert by_name["place"].seconds + by_name["tokenise"].seconds < late_s, waterfall


def panel(title: str) -> Panel:
    (found,) = [one for board in BOARDS for one in board.panels if one.title == title]
    return found


def shown(address: str, title: str) -> dict[str, float]:
    """What a panel shows now, by its legend; of several series, the largest."""
    values: dict[str, float] = {}
    for one in panel(title).queries:
        found = query(address, one.expression.replace("$__rate_interval", WINDOW))
        numbers = [float(series["value"][1]) for series in found]
        values[one.legend] = max((n for n in numbers if not math.isnan(n)), default=math.nan)
    logger.info("%s: %s", title, values)
    return values


async def test_a_slow_turn_is_found_on_the_dashboards_and_explained_by_its_trace(
    tmp_path: Path, collector: Collector
) -> None:
    with serving(tmp_path, environment=environment(collector)) as served:
        async with Client(served.address()) as client:
            router = (await client.status()).router
        targets = f"http://{router.metrics_address}/targets"
        url = served.wait_for(r'base_url="(\S+?)"')[1]
        with running_prometheus(tmp_path, {"http_sd_configs": [{"url": targets}]}) as address:
            await wait_for(address, "up == 1", 3)
            # The rates need a window of ordinary turns.
            since = time.time()
            for number in range(60):
                await asyncio.to_thread(ask, url, f"{number + 1:032x}", "Hello! Who are you?")
                await asyncio.sleep(0.1)
            before = shown(address, "A first token's parts, means")

            prefill = served.pid("prefill-0")
            os.kill(prefill, signal.SIGSTOP)
            threading.Timer(LOST_S, os.kill, (prefill, signal.SIGCONT)).start()
            await asyncio.to_thread(ask, url, TRACE_ID, "Count from 1 to 30. " * 40)
            slow = panel("Time to first token").queries[1].expression
            slow = slow.replace("$__rate_interval", WINDOW)
            await wait_for(address, f"{slow} > 2", 1)

            first_token = shown(address, "Time to first token")
            parts = shown(address, "A first token's parts, means")
            memory = shown(address, "Wait for memory on decode")
            transfer = shown(address, "Seconds in flight a handoff, by pair")
            (retried,) = shown(address, "Attempts retried elsewhere").values()
            told = await asyncio.to_thread(
                exemplars, address, "segue_time_to_first_token_seconds_bucket", since
            )
        spans = trace_of(collector, TRACE_ID)
        served.end()

    # The dashboards: few turns are slow, and what they wait for is before prefill. Neither memory,
    # nor transfers, nor computing took long, and an attempt has failed.
    assert first_token["p50"] < 0.5 < 2 < first_token["p99"]
    assert max(parts, key=lambda name: parts[name] - before[name]) == "queue, with routing"
    assert max(memory["p99"], *transfer.values()) < 0.5
    assert retried > 0
    # They name the turn.
    slowest = max(told, key=lambda one: float(one["value"]))
    assert slowest["labels"]["trace_id"] == TRACE_ID, json.dumps(told)
    # Its trace says the rest: the worker was taken for lost, and there was no other.
    waterfall = "\n".join(lines_of(spans))
    logger.info(waterfall)
    failed = [s for s in spans if s.name == "attempt" and s.attributes["error.type"]]
    assert [s.attributes["error.type"] for s in failed] == ["Unavailable"], waterfall
    (waited,) = [span for span in spans if span.name == "wait for a worker"]
    model_s = sum(s.seconds for s in spans if s.name in ("compute", "decode"))
    assert failed[0].seconds + waited.seconds > 0.8 * LOST_S > 2 * model_s, waterfall
