"""The benchmark of long contexts: a whole run with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_last_line_is_one_json_object_and_the_plot_is_written(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.long_context"),
            *("--quick", "--threads=1", f"--models={tmp_path}", f"--plot={plot}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert [row["context_tokens"] for row in result["rows"]] == [1024, 4096]
    assert all(row[name] > 0 for row in result["rows"] for name in ("prefill_s", "decode_s"))
    assert all(0 < row["pack_s"] < row["decode_s"] for row in result["rows"])
    assert 0.5 < result["memory_share"] < 5.0
    assert plot.stat().st_size > 1000
