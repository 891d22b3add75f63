"""Which running sequences take part in the next step. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def next_batch(running: Sequence[Item], max_batch: int) -> tuple[Sequence[Item], list[Item]]:
    """The batch, and the order in which all wait for the step after it.

    Everybody, while they fit; beyond that whoever waited longest, so that none starves.
    """
    batch = running[:max_batch]
    return batch, [*running[max_batch:], *batch]
