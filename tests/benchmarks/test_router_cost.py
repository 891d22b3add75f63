"""A short run of the prompt benchmark: its claims hold by a wide margin."""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from pathlib import Path

import pytest

from benchmarks.router_cost.__main__ import DEMO, measure, router_process, text_side


@pytest.mark.slow
def test_a_sessions_cost_does_not_grow_and_a_large_message_is_refused() -> None:
    options = argparse.Namespace(turns=150, prompt_tokens=20_000, message_bytes=20 << 20)

    with tempfile.TemporaryDirectory() as folder:
        text_side(DEMO, Path(folder))
        with router_process(folder) as process:
            result = asyncio.run(measure(process, options, idle_s=0.2))

    # Without the state kept between turns, the last turns cost four times as much as the first.
    first, *_, last = result["session"]["cpu_ms_a_turn"]
    assert last < 2 * first
    assert "served" in result["prompt of 20000 words"]["outcome"]
    large = result[f"message of {20 << 20} bytes"]
    assert "ContextOverflow" in large["outcome"]
    # The text itself, and a few bytes for the rest of the message.
    stated = re.search(r"the message has (\d+) bytes", large["outcome"])
    assert stated is not None
    assert 20 << 20 <= int(stated[1]) < (20 << 20) + 1000
    grown_mb = large["resident_mb_after"] - result["alone"]["resident_mb_before"]
    assert grown_mb < 60
