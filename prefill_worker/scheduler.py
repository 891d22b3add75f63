"""Which tokens of which turns the next forward pass computes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens start to end (exclusive) of the prompt of one of the waiting sequences."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sequence's prompt is computed."""

    num_computed: int
    num_prompt: int

    @property
    def num_left(self) -> int:
        return self.num_prompt - self.num_computed


def plan_chunks(waiting: Sequence[Progress], chunk_tokens: int) -> list[ScheduledChunk]:
    """Half of a pass goes to the prompts with the fewest tokens left, the rest in arrival order.

    So a short prompt does not wait for a long one before it, and the long one still progresses.
    The last prompt in each half may get only part of what it needs.
    """
    given = [0] * len(waiting)

    def give(order: Iterable[int], left: int) -> int:
        for index in order:
            size = min(left, waiting[index].num_left - given[index])
            given[index] += size
            left -= size
        return left

    half = chunk_tokens // 2
    nearest = sorted(range(len(waiting)), key=lambda i: waiting[i].num_left)
    give(range(len(waiting)), chunk_tokens - half + give(nearest, half))
    return [
        ScheduledChunk(index, progress.num_computed, progress.num_computed + size)
        for index, (progress, size) in enumerate(zip(waiting, given, strict=True))
        if size
    ]


def complete_pages(start: int, end: int, *, is_last: bool, page_tokens: int) -> range:
    """Pages that a chunk completes. A partial last page counts only if no chunk follows."""
    return range(start // page_tokens, -(-end // page_tokens) if is_last else end // page_tokens)
