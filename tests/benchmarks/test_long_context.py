"""The benchmark of long contexts: a whole run with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.running import result_of


@pytest.mark.slow
def test_the_last_line_is_one_json_object_and_the_plot_is_written(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    result = result_of(
        "long_context", "--quick", "--threads=1", f"--models={tmp_path}", f"--plot={plot}"
    )

    assert [row["context_tokens"] for row in result["rows"]] == [1024, 4096]
    assert all(row[name] > 0 for row in result["rows"] for name in ("prefill_s", "decode_s"))
    assert all(0 < row["pack_s"] < row["decode_s"] for row in result["rows"])
    assert 0.5 < result["memory_share"] < 5.0
    assert plot.stat().st_size > 1000
