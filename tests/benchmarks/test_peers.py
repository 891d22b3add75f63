"""The benchmark against peers: its arithmetic, and a whole run with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.ceilings import Ceilings
from benchmarks.harness.samples import Answered
from benchmarks.peers.result import (
    CLUSTER,
    RUNNER,
    Cost,
    Question,
    added_in_cluster_s,
    lost_in_cluster,
    measured_of,
)
from benchmarks.peers.run import Sample, Workload
from tests.benchmarks.running import result_of

WORKLOAD = Workload(prompt_lengths=(100,), turns_together=(2,), answer_tokens=5, runs=1)
CEILINGS = Ceilings(
    read_bytes_per_s=2000.0, bf16_row_bytes_per_s=1.0, bf16_flops_per_s=5e4, float32_flops_per_s=1e5
)
COST = Cost(weight_bytes_per_step=100, flops_per_prompt_token=1000)


def sample(side: str, prompt_tokens: int, *starts: float, token_s: float) -> Sample:
    """Turns asked at 0, with their first tokens at `starts` and four more."""
    answers = [
        Answered(
            asked_at=0.0, token_at=tuple(s + i * token_s for i in range(5)), token_ids=(7,) * 5
        )
        for s in starts
    ]
    return Sample(
        side=side,
        prompt_tokens=prompt_tokens,
        turns=len(starts),
        round_number=0,
        answers=answers,
        note="",
    )


SAMPLES = [
    sample(RUNNER, 100, 2.0, token_s=1.0),
    sample(CLUSTER, 100, 2.5, token_s=1.0),
    sample("peer", 100, 4.0, token_s=1.0),
    sample(RUNNER, 32, 1.0, 1.0, token_s=0.1),
    sample(CLUSTER, 32, 1.0, 1.1, token_s=0.125),
    sample("peer", 32, 1.0, 1.0, token_s=0.2),
]


def test_speeds_are_compared_with_the_best_peer_and_the_ceiling() -> None:
    measured = {(m.side, m.question): m for m in measured_of(SAMPLES, WORKLOAD, COST, CEILINGS)}

    prefill = measured[RUNNER, "prefill 100"]
    assert prefill.tokens_per_s.p50 == pytest.approx(50.0)
    assert prefill.best_peer_ratio == pytest.approx(2.0)
    # 1e5 FLOP/s are 100 tokens of 1,000.
    assert prefill.ceiling_share == pytest.approx(0.5)
    decode = measured[RUNNER, "decode 2"]
    assert decode.tokens_per_s.p50 == pytest.approx(20.0)
    assert decode.best_peer_ratio == pytest.approx(2.0)
    # A step reads 100 of 2,000 bytes a second, for two turns.
    assert decode.ceiling_share == pytest.approx(0.5)


def test_the_cluster_is_compared_with_the_runner() -> None:
    # While both decode, for 0.4 s, the cluster's turns have 4 and 3 tokens and the runner's 8.
    assert lost_in_cluster(SAMPLES, WORKLOAD) == {"decode 2": pytest.approx(1 - 7 / 8)}
    assert added_in_cluster_s(SAMPLES, WORKLOAD) == {"prefill 100": pytest.approx(0.5)}


def test_turns_that_never_decode_together_have_no_speed() -> None:
    apart = sample(CLUSTER, 32, 1.0, 9.0, token_s=0.1)

    with pytest.raises(ValueError, match="raise answer_tokens"):
        Question(prompt_tokens=32, turns=2, is_prefill=False).tokens_per_s(apart)


@pytest.mark.slow
def test_the_last_line_is_one_json_object_with_every_side(tmp_path: Path) -> None:
    result = result_of("peers", "--quick", "--threads=1", f"--models={tmp_path}")

    assert [side["name"] for side in result["sides"]] == [
        *("Segue, runner", "Segue, 1P1D", "Segue, local prefill", "transformers")
    ]
    assert all(side["memory"]["pss_bytes"] > 100 << 20 for side in result["sides"])
    assert all(measured["tokens_per_s"]["p50"] > 0 for measured in result["measured"])
    notes = {(m["side"], *m["notes"]) for m in result["measured"]}
    assert ("Segue, 1P1D", "prompts computed by prefill-0") in notes
    assert ("Segue, local prefill", "prompts computed by decode-0") in notes
