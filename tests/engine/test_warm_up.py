"""The first passes of a worker do not affect later ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine.sequence import RunningSequence
from tests.runners import new_runner


@pytest.mark.parametrize("num_tokens", [1, 15, 16, 64])
def test_a_prompt_after_first_passes_has_the_logits_of_a_fresh_worker(
    tiny_dense: Path, num_tokens: int
) -> None:
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    fresh, warm = (new_runner(tiny_dense, num_pages=8, num_slots=2) for _ in range(2))
    pages = range(num_tokens // 16 + 1)
    warm.first_passes(pages=pages, slot=0, num_tokens=num_tokens, most_tokens=num_tokens)

    expected, got = (
        RunningSequence(runner, pages=range(2), slot=0).prefill(prompt, len(prompt))
        for runner in (fresh, warm)
    )

    assert torch.equal(got, expected)
