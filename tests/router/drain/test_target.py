"""Where a session goes: the choice among siblings, as a table."""

from __future__ import annotations

import pytest

from router.drain.move import Sibling, choose_target
from segue.api.types import WorkerId


def sibling(
    name: str, *, free: int = 100, total: int = 200, held: int = 0, running: int = 0
) -> Sibling:
    return Sibling(
        worker_id=WorkerId(name),
        free_pages=free,
        total_pages=total,
        held_tokens=held,
        running_turns=running,
    )


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ([], None),
        ([sibling("a", total=9)], None),
        ([sibling("a", free=0)], "a"),
        ([sibling("a", free=10), sibling("b", free=11)], "b"),
        ([sibling("a", free=9, held=64), sibling("b", free=10)], "b"),
        ([sibling("a", free=90), sibling("b", free=10, held=64)], "b"),
        ([sibling("a", running=1), sibling("b")], "b"),
        ([sibling("b"), sibling("a")], "a"),
        ([sibling("a", free=-3), sibling("b", free=-1)], "b"),
    ],
    ids=[
        "there is none",
        "it is larger than the whole pool",
        "it may evict",
        "more free pages",
        "nothing is evicted for what it has",
        "it has a part already",
        "less busy",
        "always the same among equals",
        "all are promised",
    ],
)
def test_a_session_of_ten_pages_goes_to(siblings: list[Sibling], expected: str | None) -> None:
    chosen = choose_target(10, siblings)

    assert (chosen and chosen.worker_id) == expected
