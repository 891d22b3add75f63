from __future__ import annotations

import pytest

from benchmarks.placement.spread import measure_spread
from tests.benchmarks.running import result_of


def test_the_benchmark_ends_with_one_json_line_and_placement_by_cost_leads() -> None:
    report = result_of("placement", "--quick")

    results = {one["policy"]: one for one in report["results"]}
    ours, blind = results["segue"], results["least loaded"]
    assert len(results) == 5
    assert ours["num_turns"] == blind["num_turns"]
    assert ours["hit_rate"] > 0.95 > blind["hit_rate"]
    assert ours["later_turn_p50_s"] < blind["later_turn_p50_s"] / 5
    assert ours["error_p50"] < 0.2


@pytest.mark.parametrize("num_decodes", [2, 3, 8])
def test_new_sessions_spread_over_idle_workers_and_reuse_their_shared_prefixes(
    num_decodes: int,
) -> None:
    spread = measure_spread(num_decodes, num_sessions=120)

    assert spread.busiest_share <= 1.1 * spread.even_share
    assert spread.shared_prefix_hit_rate == 1.0
    assert spread.stay_rate == 1.0


def test_decisions_are_timed_separately() -> None:
    times = result_of("placement", "--decisions", "--workers", "8", "--sessions", "20")

    assert times["num_workers"] == 8
    assert 0 < times["p50_us"] <= times["p99_us"]
