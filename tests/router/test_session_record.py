"""What the router remembers of a session that has moved."""

from __future__ import annotations

import pytest

from router.sessions.record import Keeping, SessionRecord, after_move
from segue.api.cluster.drain import Adopted
from segue.api.types import Epoch, SessionId, WorkerId
from tests.router.small_cluster import worker


def keeping(name: str, tokens: int = 64, epoch: int = 1) -> Keeping:
    return Keeping(worker_id=WorkerId(name), epoch=Epoch(epoch), tokens=tokens, states=(16, tokens))


SOURCE, TARGET = worker("decode-0"), worker("decode-1")
LEFT, CAME, OTHER = keeping("decode-0"), keeping("decode-1"), keeping("decode-2")


@pytest.mark.parametrize(
    ("before", "is_latest", "after"),
    [
        ((LEFT,), True, (CAME,)),
        ((LEFT, OTHER), True, (CAME, OTHER)),
        # Before the end of its first turn has come.
        ((), True, (CAME,)),
        ((OTHER,), True, (CAME,)),
        # A later turn ran elsewhere: the target is second, as the source was.
        ((OTHER, LEFT), False, (OTHER, CAME)),
        # A later turn ran on the target, and left more.
        ((keeping("decode-1", 96), LEFT), False, (keeping("decode-1", 96),)),
        # It has an older part, which is replaced.
        ((LEFT, keeping("decode-1", 32)), True, (CAME,)),
        # Two others have been there since.
        ((OTHER, keeping("decode-3")), False, (OTHER, keeping("decode-3"))),
        # An earlier life of the source keeps nothing.
        ((keeping("decode-0", epoch=7), OTHER), False, (keeping("decode-0", epoch=7), OTHER)),
    ],
)
def test_the_target_takes_the_place_of_the_source(
    before: tuple[Keeping, ...], is_latest: bool, after: tuple[Keeping, ...]
) -> None:
    assert after_move(before, SOURCE, CAME, is_latest=is_latest) == after


def test_the_session_is_where_it_moved() -> None:
    record = SessionRecord(
        session_id=SessionId("s"), decode_worker=SOURCE.worker_id, decodes=(LEFT,)
    )
    record.moved(SOURCE, TARGET, Adopted(kept_tokens=64, kept_states=(16, 64), moved_bytes=1))

    assert record.kept == CAME
    assert record.info().decode_worker == "decode-1"


def test_a_turn_that_was_placed_elsewhere_meanwhile_stays_the_latest() -> None:
    record = SessionRecord(
        session_id=SessionId("s"), decode_worker=WorkerId("decode-2"), decodes=(LEFT,)
    )
    record.moved(SOURCE, TARGET, Adopted(kept_tokens=64, kept_states=(16, 64), moved_bytes=1))

    assert record.info().decode_worker == "decode-2"
    assert record.decodes == (CAME,)
