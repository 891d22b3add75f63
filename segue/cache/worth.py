"""What cached things are worth: seconds that the next turn loses without them, per byte they hold.

                 root ──────▶ checkpoint a ──────────▶ checkpoint b ─────▶ last page
    to prefill        ◀ worth with a ▶  ◀  worth with b  ▶  ◀ nothing ▶
    to decode         ◀    every page is worth the time to ship it    ▶

Prefill resumes at a checkpoint, so pages behind the last one must be computed again anyway. Decode
gets a state with every turn, so a page counts alone; its checkpoints spare a prefill worker that
fetches them from computing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from segue.cache.layout import CacheLayout
from segue.cache.node import Checkpoint, Node

SecondsToCompute = Callable[[int], float]
"""Of the first `num_tokens` tokens of a prompt, from nothing. Must not fall as they grow more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """All in seconds per byte, and 0 for what nobody would miss."""

    page: Callable[[Node], float]
    """Of a leaf's page, with the leaf's checkpoint if it has one."""
    checkpoint: Callable[[Checkpoint], float]
    prefix: Callable[[int], float]
    """Of all pages of the first `num_tokens` tokens, and the checkpoint at their end."""


def worth_to_prefill(layout: CacheLayout, seconds_to_compute: SecondsToCompute) -> Worth:
    """Losing a checkpoint, or a page before it, means computing from the checkpoint above.

    The first page lost makes the others down to there worthless, so they are weighed together.
    """
    page_bytes, slot_bytes = layout.page_bytes, layout.slot_bytes

    def run(start: int, end: int) -> float:
        num_pages = (end - start) // layout.page_tokens
        return _coarse(
            (seconds_to_compute(end) - seconds_to_compute(start))
            / (num_pages * page_bytes + slot_bytes)
        )

    def page(node: Node) -> float:
        checkpoint = node.checkpoint
        return run(checkpoint.num_tokens_above(), node.num_tokens) if checkpoint else 0.0

    return Worth(
        page=page,
        checkpoint=_checkpoint_worth(layout, seconds_to_compute),
        prefix=lambda num_tokens: run(0, num_tokens),
    )


def worth_to_decode(
    layout: CacheLayout, seconds_to_compute: SecondsToCompute, *, link_bytes_per_s: float
) -> Worth:
    """Losing a page means having it shipped: all bytes are equal, and the least recent ones go."""
    return Worth(
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
    """In steps of a fifth: a smaller difference is an error of the estimate, recency decides."""
    return 2.0 ** (round(4 * math.log2(worth)) / 4) if worth > 0.0 else 0.0
