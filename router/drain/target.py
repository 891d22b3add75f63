"""Which decode worker a session moves to: a pure function of what the router knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from segue.api.types import WorkerId


class Sibling(NamedTuple):
    """A ready decode worker, as one choice sees it."""

    worker_id: WorkerId
    free_pages: int
    """Pages that hold nothing, without those promised to moves in progress."""
    total_pages: int
    held_tokens: int
    """The longest prefix of the session that it has already."""
    running_turns: int


def choose_target(num_pages: int, siblings: Iterable[Sibling]) -> Sibling | None:
    """The sibling that is to pull a session of this many pages; None if it fits into none.

    Prefers, in this order: one where nothing has to be evicted, the one that has most of it, the
    one with the most free pages, so that sessions spread, and the least busy one. A sibling that
    lacks free pages may still evict what no session leases: only it knows, and it refuses if it
    cannot.
    """

    def preference(sibling: Sibling) -> tuple[bool, int, int, int, WorkerId]:
        return (
            sibling.free_pages < num_pages,
            -sibling.held_tokens,
            -sibling.free_pages,
            sibling.running_turns,
            sibling.worker_id,
        )

    able = [sibling for sibling in siblings if sibling.total_pages >= num_pages]
    return min(able, key=preference, default=None)
