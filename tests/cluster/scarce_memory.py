"""Models, page sizes and scarce memory for session tests."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel

_ENGINE = EngineConfig(max_running=2, max_checkpoints=3, num_threads=1)
# For each running turn: the state that it reads, the state that it writes, and the checkpoints.
_NUM_SLOTS = 7


def kinds_and_pages(*, always: tuple[str, int] | None = None) -> list[object]:
    """Dense and MoE with pages of 16 and 64 tokens. All but `always` are slow tests."""
    both = itertools.product(("dense", "moe"), (16, 64))
    return [
        case if case == always else pytest.param(*case, marks=pytest.mark.slow) for case in both
    ]


def memory_for(folder: Path, num_tokens: int, *, page_tokens: int) -> EngineConfig:
    """Pages for `num_tokens` tokens and a few states: sessions lose theirs whenever they pause."""
    layout = ServedModel.of(folder, replace(_ENGINE, page_tokens=page_tokens)).layout
    for_pages = layout.num_pages_for(num_tokens) * layout.page_bytes
    return replace(
        _ENGINE,
        page_tokens=page_tokens,
        cache_bytes=for_pages + _NUM_SLOTS * layout.slot_bytes,
    )
