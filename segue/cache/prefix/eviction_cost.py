"""The worth of cached items: the seconds that the next turn loses without them, per byte they hold.

                 root ──────▶ checkpoint a ──────────▶ checkpoint b ─────▶ last page
    to prefill        ◀ worth with a ▶  ◀  worth with b  ▶  ◀ nothing ▶
    to decode         ◀    every page is worth the time to ship it    ▶

Prefill resumes at a checkpoint, so pages after the last one must be computed again anyway. Decode
receives a state with every turn, so each page counts by itself. Its checkpoints save compute for a
prefill worker that pulls them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from segue.cache.layout import CacheLayout
from segue.cache.prefix.node import Checkpoint, PageNode

SecondsToCompute = Callable[[int], float]
"""Seconds to compute a prompt's first `num_tokens` tokens from scratch. Must never decrease."""


def _proportional(num_tokens: int) -> float:
    """Only proportions matter within one worker."""
    return num_tokens * 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionCost:
    """All in seconds per byte; 0 if losing the item costs no time."""

    page: Callable[[PageNode], float]
    """The worth of a leaf's page, with the leaf's checkpoint if it has one."""
    checkpoint: Callable[[Checkpoint], float]
    prefix: Callable[[int], float]
    """The worth of all pages of the first `num_tokens` tokens, with the checkpoint at their end."""


def cost_to_prefill(
    layout: CacheLayout, seconds_to_compute: SecondsToCompute = _proportional
) -> EvictionCost:
    """Losing a checkpoint, or a page before it, means computing from the checkpoint above.

    Losing one page of such a run makes its other pages worthless, so they are weighed together.
    """
    page_bytes, slot_bytes = layout.page_bytes, layout.slot_bytes

    def run(start: int, end: int) -> float:
        num_pages = (end - start) // layout.page_tokens
        return _coarse(
            (seconds_to_compute(end) - seconds_to_compute(start))
            / (num_pages * page_bytes + slot_bytes)
        )

    def page(node: PageNode) -> float:
        checkpoint = node.checkpoint
        return run(checkpoint.num_tokens_above(), node.num_tokens) if checkpoint else 0.0

    return EvictionCost(
        page=page,
        checkpoint=_checkpoint_worth(layout, seconds_to_compute),
        prefix=lambda num_tokens: run(0, num_tokens),
    )


def cost_to_decode(
    layout: CacheLayout,
    seconds_to_compute: SecondsToCompute = _proportional,
    *,
    link_bytes_per_s: float = 1e9,
) -> EvictionCost:
    """Losing a page means shipping it again: all bytes are worth the same, so eviction is LRU."""
    return EvictionCost(
        page=lambda _: 1.0 / link_bytes_per_s,
        checkpoint=_checkpoint_worth(layout, seconds_to_compute),
        prefix=lambda _: 1.0 / link_bytes_per_s,
    )


def _checkpoint_worth(
    layout: CacheLayout, seconds_to_compute: SecondsToCompute
) -> Callable[[Checkpoint], float]:
    slot_bytes = layout.slot_bytes

    def worth(checkpoint: Checkpoint) -> float:
        start, end = checkpoint.num_tokens_above(), checkpoint.num_tokens
        return _coarse((seconds_to_compute(end) - seconds_to_compute(start)) / slot_bytes)

    return worth


def _coarse(worth: float) -> float:
    """Rounds to steps of about a fifth: smaller differences are estimation error, and recency
    decides."""
    return 2.0 ** (round(4 * math.log2(worth)) / 4) if worth > 0.0 else 0.0
