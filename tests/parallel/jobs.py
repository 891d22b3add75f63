"""What rank processes run: the same calls on each rank. In a module of its own, which they import
without pytest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.kernels.paged_attention.e4m3 import as_bytes
from segue.parallel.group import Group
from tests.engine.drafting import DraftingSequence, draft, verify

Array = np.ndarray
NUM_PAGES, NUM_SLOTS, PAGE_TOKENS = 24, 16, 16
ENGINE = EngineConfig(page_tokens=PAGE_TOKENS, draft_vocabulary=130)
"""Tokens that may be drafted: those of half the ranks' parts of the head."""


@dataclass(frozen=True, slots=True)
class Played:
    tokens: list[list[int]]
    drafts: list[list[list[int]]]
    logits: list[Array]
    """Of each pass."""
    cache: dict[tuple[str, int], Array]
    weight_bytes: int


class RecordingRunner(ModelRunner):
    logits: list[Array]

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        logits_RV = super().forward(*arguments, **options)
        self.logits.append(logits_RV.numpy())
        return logits_RV


def play(group: Group, folder: Path, kv_dtype: str = "auto") -> Played:
    """Two prompts in chunks, then steps with drafts, greedily; and all that the rank keeps."""
    served = ServedModel.of(folder, replace(ENGINE, kv_dtype=kv_dtype))
    runner = RecordingRunner.load(served, num_pages=NUM_PAGES, num_slots=NUM_SLOTS, group=group)
    runner.logits = []
    sequences = [
        DraftingSequence(runner, range(10), range(5), prompt_of(37)),
        DraftingSequence(runner, range(10, 20), range(5, 10), prompt_of(50)),
    ]
    for sequence in sequences:
        sequence.prefill(chunk_tokens=24)
    drafts = []
    for _ in range(5):
        # The first drafts more than the second.
        drafts.append(draft(runner, sequences, [2, 1]))
        verify(runner, sequences, drafts[-1])
    return Played(
        tokens=[sequence.tokens for sequence in sequences],
        drafts=drafts,
        logits=runner.logits,
        cache={(f.group, f.layer): as_bytes(t).numpy() for f, t in runner.tensors.fields()},
        weight_bytes=runner.weight_bytes,
    )


def summed(group: Group, parts: Sequence[Array]) -> Array:
    """The group's sum of one array for each rank."""
    return group.sum(torch.from_numpy(parts[group.rank.index])).numpy()


def gathered(group: Group, columns: Sequence[Array], num_columns: int) -> Array:
    return group.gather(torch.from_numpy(columns[group.rank.index]), num_columns).numpy()


def prompt_of(num_tokens: int) -> list[int]:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randint(300, (num_tokens,), generator=generator).tolist()
