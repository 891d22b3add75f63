"""`segue serve` exports to a real OTLP collector, and a slow turn's trace shows what was slow."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from openai import OpenAI

from scripts.traces import Collector, Seen, lines_of
from tests.cluster.serving import serving

pytestmark = pytest.mark.slow

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
QUIET_S = 3.0
# Below the heartbeat's timeout: the worker is not lost.
STOPPED_S = 1.2


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
