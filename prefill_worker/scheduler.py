"""Chooses the tokens that the next forward pass computes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens start to end (exclusive) of the prompt of one of the waiting sequences."""

    index: int
    start: int
    end: int


SCORED_TOKEN_COST = 2
"""A token that gets logits counts as this many in a pass: with a large vocabulary, the head and the
log-probabilities can take as much time as the layers of a small model."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The computed part of a sequence's prompt."""

    num_computed: int
    num_prompt: int
    token_cost: int = 1
    """How many tokens each token counts as in a pass."""

    @property
    def num_left(self) -> int:
        return self.num_prompt - self.num_computed


def plan_chunks(waiting: Sequence[Progress], chunk_tokens: int) -> list[ScheduledChunk]:
    """Gives half of a pass to the prompts with the fewest tokens left, the rest in arrival order.

    So a short prompt does not wait for an earlier long one, and the long one still progresses.
    The last prompt in each half may get only a part. A token counts `token_cost` times, and the
    total may exceed `chunk_tokens` by less than the cost of one token.
    """
    given = [0] * len(waiting)

    def give(order: Iterable[int], left: int) -> int:
        for index in order:
            one = waiting[index]
            # Rounded up, so that even the smallest pass computes something.
            size = min(-(-left // one.token_cost), one.num_left - given[index])
            given[index] += size
            left = max(left - size * one.token_cost, 0)
        return left

    half = chunk_tokens // 2
    nearest = sorted(range(len(waiting)), key=lambda i: waiting[i].num_left * waiting[i].token_cost)
    give(range(len(waiting)), chunk_tokens - half + give(nearest, half))
    return [
        ScheduledChunk(index, progress.num_computed, progress.num_computed + size)
        for index, (progress, size) in enumerate(zip(waiting, given, strict=True))
        if size
    ]


def complete_pages(start: int, end: int, *, is_last: bool, page_tokens: int) -> range:
    """Pages that a chunk completes. A partial last page counts only if no chunk follows."""
    return range(start // page_tokens, -(-end // page_tokens) if is_last else end // page_tokens)
