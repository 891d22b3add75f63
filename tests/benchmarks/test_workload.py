"""Prompts are drawn from their number, so all sides and all runs get the same ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.serving.workload import QUICK


def test_a_prompt_depends_only_on_its_number_and_length() -> None:
    first = QUICK.prompt(32, number=1, vocab_size=50)

    assert first == QUICK.prompt(32, number=1, vocab_size=50)
    assert first != QUICK.prompt(32, number=2, vocab_size=50)
    assert len(first) == 32
    assert max(first) < 50


def test_an_answer_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="no decode speed"):
        replace(QUICK, answer_tokens=1)
