"""The serving benchmark: its prompts, and a whole run with a tiny model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.serving.workload import QUICK
from tests.benchmarks.running import result_of


def test_a_prompt_depends_only_on_its_number_and_length() -> None:
    first = QUICK.prompt(32, number=1, vocab_size=50)

    assert first == QUICK.prompt(32, number=1, vocab_size=50)
    assert first != QUICK.prompt(32, number=2, vocab_size=50)
    assert len(first) == 32
    assert max(first) < 50


def test_an_answer_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="no decode speed"):
        replace(QUICK, answer_tokens=1)


@pytest.mark.slow
def test_the_last_line_is_one_json_object_with_every_number() -> None:
    result = result_of("serving", "--quick", "--threads", "1")

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
