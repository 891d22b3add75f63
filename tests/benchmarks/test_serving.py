"""A whole run of the serving benchmark, with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_last_line_is_one_json_object_with_every_number() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--quick", "--threads", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["equal_answers"] == result["num_answers"]
    assert result["environment"].keys() >= {"commit", "date", "cpu", "cores", "versions"}
    assert result["config"]["engine"]["num_threads"] == 1
    assert result["ceiling_tokens_per_s"] > 0
    assert [row["prompt_tokens"] for row in result["alone"]] == [32, 200]
    assert all(row["shipped_bytes"] == row["expected_bytes"] for row in result["alone"])
    assert all(row["transfer_s"] > 0 for row in result["alone"])
    assert all(row["first_token_s"]["p90"] > 0 for row in result["alone"])
    assert result["together"][0]["turns"] == 2
    assert result["router"]["dispatch_s"] > 0
    assert result["router"]["relay_s"] > 0
