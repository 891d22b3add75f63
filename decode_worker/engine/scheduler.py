"""Which running sequences take part in the next step. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def next_batch(
    running: Sequence[Item],
    max_batch: int,
    *,
    num_prompt_tokens: Callable[[Item], int],
    max_prompt_tokens: int,
) -> tuple[list[Item], list[Item]]:
    """The batch, and the order in which all items wait for the step after it.

    Takes all if they fit, else those that have waited longest, so that none starves. Prompts make
    the step longer for the whole batch: they share `max_prompt_tokens`, but the first always fits.
    """
    batch: list[Item] = []
    waiting: list[Item] = []
    prompt_tokens = 0
    for item in running:
        size = num_prompt_tokens(item)
        has_room = not size or not prompt_tokens or prompt_tokens + size <= max_prompt_tokens
        if len(batch) < max_batch and has_room:
            batch.append(item)
            prompt_tokens += size
        else:
            waiting.append(item)
    return batch, [*waiting, *batch]
