"""The agentic benchmark: its pure functions, and a whole run with a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.agentic.modes import Mode, config_of
from benchmarks.agentic.samples import TurnSample, hit_rate, rows_of, theoretical_hit_rate
from benchmarks.agentic.targets import Target, growth, new_bytes, targets
from benchmarks.agentic.workload import Workload
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.launch.config import Config
from tests.benchmarks.running import result_of

WORKLOAD = Workload(
    scale=1 / 25,
    sessions=3,
    later_turns=(10, 15),
    arrival_gap_s=4.0,
    tool_s=0.5,
    think_s=2.0,
    think_share=0.2,
    seed=0,
)
LAYOUT = CacheLayout(
    model_id="tiny",
    page_tokens=16,
    fields=(
        CacheField(group="kv", unit=Unit.PAGE, layer=0, shape=(16, 2), dtype="float32"),
        CacheField(group="recurrent", unit=Unit.SLOT, layer=0, shape=(64,), dtype="float32"),
    ),
)


def sample(turn: int, *, first_token_s: float = 0.1, shipped_bytes: int = 0) -> TurnSample:
    prompt_tokens = 2000 + 44 * (turn - 1)
    seen_tokens = prompt_tokens - 32 if turn > 1 else 0
    reused_tokens = seen_tokens // 16 * 16
    return TurnSample(
        session="agent-0",
        turn=turn,
        prompt_tokens=prompt_tokens,
        seen_tokens=seen_tokens,
        cached_tokens=reused_tokens,
        pulled_tokens=0,
        resident_tokens=reused_tokens,
        shipped_bytes=shipped_bytes,
        pulled_bytes=0,
        first_token_s=first_token_s,
        router_s=0.0,
        queue_s=0.01,
        prefill_s=0.05,
        transfer_s=0.02,
        exposed_transfer_s=0.01,
        rest_s=0.03,
        inter_token_s=(0.02, 0.03),
    )


def later(seconds: Sequence[float]) -> list[TurnSample]:
    return [
        replace(sample(turn, first_token_s=s), shipped_bytes=new_bytes(sample(turn), LAYOUT))
        for turn, s in enumerate(seconds, start=2)
    ]


def test_the_default_scale_is_the_published_shape_scaled_down() -> None:
    scripts = WORKLOAD.scripts(vocab_size=100)

    assert [len(script.turns[0].new_tokens) for script in scripts] == [2000] * 3
    assert {len(turn.new_tokens) for s in scripts for turn in s.turns[1:]} == {32}
    assert all(10 <= len(script.turns) - 1 <= 15 for script in scripts)
    assert WORKLOAD.answer_tokens == 12


def test_a_seed_determines_the_workload() -> None:
    assert WORKLOAD.scripts(vocab_size=100) == WORKLOAD.scripts(vocab_size=100)
    other = replace(WORKLOAD, seed=1).scripts(vocab_size=100)
    assert other[0].turns[0] != WORKLOAD.scripts(vocab_size=100)[0].turns[0]


def test_sessions_start_on_schedule() -> None:
    starts = [script.starts_at_s for script in WORKLOAD.scripts(vocab_size=100)]

    assert starts[0] == 0
    assert starts == sorted(starts)


def test_each_mode_disables_one_part() -> None:
    everything = Config()

    assert config_of(Mode.EVERYTHING, everything) == everything
    assert not config_of(Mode.NO_PULL, everything).prefill.pull
    assert not config_of(Mode.NO_RESIDENCY, everything).decode.residency
    assert not config_of(Mode.NO_PREFIX_CACHE, everything).prefill.prefix_cache


def test_hit_rates_count_tokens_not_turns() -> None:
    samples = [sample(1), sample(2)]

    assert theoretical_hit_rate(samples) == 2012 / 4044
    assert hit_rate(samples) == 2000 / 4044


def test_rows_are_per_turn_over_all_sessions() -> None:
    samples = [sample(1), replace(sample(1), session="agent-1", first_token_s=0.3), sample(2)]

    first, second = rows_of(samples)

    assert (first.turn, first.num_samples, second.num_samples) == (1, 2, 1)
    assert first.first_token_s.p50 == pytest.approx(0.2)
    assert second.inter_token_s.p50 == pytest.approx(0.025)
    assert second.computed_tokens == 44


def test_new_bytes_are_the_pages_that_decode_lacks_and_one_state() -> None:
    # The history has 2012 tokens: 125 full pages of 128 for the prompt.
    assert new_bytes(sample(2), LAYOUT) == 3 * LAYOUT.page_bytes + LAYOUT.slot_bytes


def test_growth_compares_the_last_turns_with_the_first_later_ones() -> None:
    assert growth(later([0.1, 0.1, 0.1, 0.1, 9.0, 0.2, 0.2, 0.2, 0.2])) == pytest.approx(2.0)


def test_targets_are_judged_from_turn_two_on() -> None:
    fast, slow = later([0.1] * 10), later([0.5] * 10)

    found = targets({Mode.EVERYTHING: [sample(1), *fast], Mode.NO_RESIDENCY: slow}, LAYOUT)

    def one(words: str) -> Target:
        (target,) = (t for t in found if words in t.name)
        return target

    assert one("reused").is_met
    assert one("bytes shipped").value == 1.0
    assert one("last turns over").value == pytest.approx(1.0)
    assert one("no residency").value == pytest.approx(5.0)
    assert not any("no prefix cache" in target.name for target in found)


@pytest.mark.slow
def test_the_last_line_is_one_json_object_with_every_number(tmp_path: Path) -> None:
    plot = tmp_path / "turns.png"
    result = result_of("agentic", "--quick", "--plot", str(plot))

    assert result["environment"].keys() >= {"commit", "date", "cpu", "cores", "versions"}
    assert [mode["mode"] for mode in result["modes"]] == [mode.value for mode in Mode]
    for mode in result["modes"]:
        assert mode["turns"][0]["num_samples"] == 2
        assert len(mode["alone"]) == 4
        row = mode["turns"][1]
        assert row["first_token_s"].keys() == {"p50", "p90", "p99"}
        # With everything on, decode computes a suffix of four tokens itself.
        assert (row["shipped_bytes"] == 0) == (mode["mode"] == Mode.EVERYTHING.value)
        assert row["computed_tokens"] + row["cached_tokens"] + row[
            "pulled_tokens"
        ] == pytest.approx(row["prompt_tokens"])
    by_mode = {mode["mode"]: mode for mode in result["modes"]}
    assert by_mode["no prefix cache"]["hit_rate"] == 0
    assert by_mode["no pull"]["pulled_bytes"] == 0
    assert by_mode["no residency"]["shipped_bytes"] > by_mode["everything"]["shipped_bytes"]
    assert {target["name"] for target in result["targets"]}
    assert result["emptied"][0]["warm_s"] > 0
    assert plot.stat().st_size > 0
