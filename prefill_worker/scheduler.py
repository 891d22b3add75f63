"""Which tokens of which turns the next forward pass computes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens start to end (exclusive) of the prompt of one of the waiting sequences."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sequence's prompt is computed."""

    num_computed: int
    num_prompt: int


def plan_chunks(waiting: Sequence[Progress], chunk_tokens: int) -> list[Chunk]:
    """First come, first served: each takes what it still needs, until `chunk_tokens` are given.

    The last may get a part. So a long prompt is cut, and short ones share a pass.
    """
    chunks: list[Chunk] = []
    left = chunk_tokens
    for index, progress in enumerate(waiting):
        if left == 0:
            break
        size = min(left, progress.num_prompt - progress.num_computed)
        chunks.append(Chunk(index, progress.num_computed, progress.num_computed + size))
        left -= size
    return chunks


def complete_pages(start: int, end: int, *, is_last: bool, page_tokens: int) -> range:
    """Pages that a chunk completes; the page after the last full one only when nothing follows."""
    return range(start // page_tokens, -(-end // page_tokens) if is_last else end // page_tokens)
