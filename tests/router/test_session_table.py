"""One record per session: what it keeps, for how long, and that a release forgets all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.placement.cluster import ClusterModel
from router.placement.explain import Decided
from router.placement.node import WorkerNode
from router.placement.policy import place
from router.placement.side import Held, Rules, TurnSize
from router.sessions import table as session_table
from router.sessions.history import Completed, TurnTokens
from router.sessions.record import SessionRecord
from router.sessions.table import SessionTable
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import NotFound
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import (
    ChatInput,
    Message,
    Role,
    SessionId,
    TurnId,
    TurnRequest,
    WorkerId,
)
from tests.router.small_cluster import worker

A, B, C = SessionId("a"), SessionId("b"), SessionId("c")
CHAT = ChatInput(messages=(Message(role="user", content="hello"),))
PAGE_TOKENS = 4
PROMPT = range(10)


def nodes(*workers: WorkerStatus) -> dict[WorkerId, WorkerNode]:
    table = {}
    for status in workers:
        table[status.worker_id] = WorkerNode(status, status.worker_id)
        table[status.worker_id].update(status)
    return table


ALL = nodes(*(worker(f"{role}-{number}") for role in Role for number in range(3)))


def placed(table: SessionTable, session_id: SessionId) -> SessionRecord:
    """A turn of the session, placed on the only workers."""
    cluster = ClusterModel()
    for name in ("prefill-0", "decode-0"):
        cluster.update_worker(worker(name))
    session, size = table.of(session_id), TurnSize(10, 10)
    decision = place(size, cluster, {}, Rules())
    table.placed(session, Decided(session_id, TurnId("t"), size, decision, 0.0))
    return session


def ended(
    table: SessionTable, session: SessionRecord, finish_reason: FinishReason = FinishReason.STOP
) -> TurnEnd:
    request = TurnRequest(session_id=session.session_id, turn_id=TurnId("t"), input=CHAT)
    known = table.history(session.session_id)
    tokens = TurnTokens.of(
        Prompt(PROMPT), table.tokens(session.session_id), PAGE_TOKENS, known=known
    )
    end = TurnEnd(finish_reason=finish_reason)
    return table.record(session, Completed(request, known), tokens.with_answer([10]), None, end)


def named_tokens(table: SessionTable, session_id: SessionId) -> int:
    """Names a prompt equal to that of `ended`, for a worker that has all of it."""
    name = TurnTokens.of(Prompt(PROMPT), table.tokens(session_id), PAGE_TOKENS).name(10)
    return name.num_tokens if name else 0


def is_explained(table: SessionTable, session_id: SessionId) -> bool:
    try:
        table.explain(session_id)
    except NotFound:
        return False
    return True


def known_parts(table: SessionTable, session_id: SessionId) -> set[str]:
    parts = {
        "place": session_id in table,
        "history": table.history(session_id) is not None,
        "tokens": named_tokens(table, session_id) > 0,
        "decision": is_explained(table, session_id),
    }
    return {name for name, is_known in parts.items() if is_known}


EVERYTHING = {"place", "history", "tokens", "decision"}


@pytest.fixture
def table() -> SessionTable:
    return SessionTable(max_sessions=2, history_bytes=1 << 20)


@pytest.fixture
def session(table: SessionTable) -> SessionRecord:
    return placed(table, A)


def test_a_release_forgets_everything_about_the_session_and_nothing_about_others(
    table: SessionTable,
) -> None:
    for session_id in (A, B):
        ended(table, placed(table, session_id))
    assert known_parts(table, A) == EVERYTHING

    assert table.release(A)

    assert known_parts(table, A) == set()
    assert known_parts(table, B) == EVERYTHING
    assert not table.release(A)


def test_a_turn_running_during_its_sessions_release_leaves_no_record(
    table: SessionTable, session: SessionRecord
) -> None:
    ended(table, session)
    table.release(A)

    session.keep(worker("decode-0"), Held(32, 16))
    end = ended(table, session)

    assert end.kept_messages == 0
    assert known_parts(table, A) == set()
    assert table.of(A).held(ALL) == {}
    assert table.history_bytes == 0


def test_a_fork_has_its_parents_tokens_but_no_decision(
    table: SessionTable, session: SessionRecord
) -> None:
    session.keep(worker("decode-0"), Held(32, 16))
    ended(table, session)

    table.fork_history(A, B)
    table.fork(A, B)

    assert known_parts(table, B) == EVERYTHING - {"decision"}
    assert table.history(B) is table.history(A)
    assert named_tokens(table, B) == 8
    assert listed(table) == [A, B]


def test_a_fork_outlives_its_parent(table: SessionTable, session: SessionRecord) -> None:
    session.keep(worker("decode-0"), Held(32, 16))
    ended(table, session)
    table.fork_history(A, B)
    table.fork(A, B)

    table.release(A)

    assert known_parts(table, B) == EVERYTHING - {"decision"}
    assert table.of(B).held(ALL) == {"decode-0": Held(32, 16)}


def test_after_a_cancelled_turn_prefix_names_come_from_the_turn_before(
    table: SessionTable, session: SessionRecord
) -> None:
    assert ended(table, session, FinishReason.CANCELLED).kept_messages == 1
    assert known_parts(table, A) == EVERYTHING - {"tokens"}


def test_the_least_recently_used_session_is_forgotten_first(table: SessionTable) -> None:
    for name in (A, B, A, C):
        placed(table, name)

    assert A in table
    assert B not in table
    assert len(table) == 2
    assert listed(table) == [A, C]


def test_sessions_are_listed_in_order_of_placement(table: SessionTable) -> None:
    for name in (A, B, A):
        placed(table, name)

    assert listed(table) == [B, A]


def test_the_most_recently_used_sessions_can_be_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_table, "_MAX_EXPLAINED", 2)
    table = SessionTable(max_sessions=10, history_bytes=0)
    for name in (A, B, A, C):
        placed(table, name)

    assert [is_explained(table, name) for name in (A, B, C)] == [True, False, True]
    assert len(table) == 3


def test_the_number_of_kept_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # A turn is eleven tokens here.
    monkeypatch.setattr(session_table, "_MAX_TOKENS", 32)
    table = SessionTable(max_sessions=10, history_bytes=0)
    for name in (A, B, C):
        ended(table, placed(table, name))

    assert [named_tokens(table, name) for name in (A, B, C)] == [0, 8, 8]


def test_the_last_two_workers_of_each_role_are_remembered(session: SessionRecord) -> None:
    for tokens, name in enumerate(("decode-0", "decode-1", "decode-2", "decode-1", "prefill-0"), 1):
        session.keep(worker(name), Held(16 * tokens, 16))

    assert session.held(ALL) == {
        "decode-1": Held(64, 16),
        "decode-2": Held(48, 16),
        "prefill-0": Held(80, 16),
    }


def test_a_session_that_was_never_placed_is_not_listed(
    table: SessionTable, session: SessionRecord
) -> None:
    table.of(B).keep(worker("decode-0"), Held(16, 16))
    table.of(B).diverged(10)

    assert table.of(B).held(ALL) == {}
    assert len(table) == 1


def test_a_later_life_and_a_lost_worker_hold_nothing(session: SessionRecord) -> None:
    session.keep(worker("decode-0"), Held(32, 16))
    later = nodes(worker("decode-0", epoch=2))
    lost = nodes(replace(worker("decode-0"), health=WorkerHealth.LOST))
    draining = nodes(replace(worker("decode-0"), health=WorkerHealth.DRAINING))

    assert session.held(later) == session.held(lost) == {}
    assert session.held(draining) == {"decode-0": Held(32, 16)}


def test_a_correction_changes_a_workers_tokens_but_not_which_worker_served_last(
    session: SessionRecord,
) -> None:
    session.keep(worker("decode-0"), Held(32, 16))
    session.keep(worker("decode-1"), Held(64, 48))

    session.correct(worker("decode-0"), Held(16, 0))
    session.correct(worker("decode-2"), Held(16, 16))

    kept = session.kept
    assert kept is not None
    assert (kept.worker_id, kept.tokens) == ("decode-1", 64)
    assert session.held(ALL) == {"decode-1": Held(64, 48), "decode-0": Held(16, 0)}


def test_a_fork_starts_from_its_parent_and_then_differs(
    table: SessionTable, session: SessionRecord
) -> None:
    session.keep(worker("decode-0"), Held(32, 16))
    table.fork(A, B)

    table.of(B).keep(worker("decode-1"), Held(64, 64))

    assert table.of(A).held(ALL) == {"decode-0": Held(32, 16)}
    assert table.of(B).held(ALL) == {"decode-1": Held(64, 64), "decode-0": Held(32, 16)}


def test_a_diverging_prompt_is_held_up_to_an_earlier_state(
    session: SessionRecord,
) -> None:
    session.keep(worker("prefill-0"), Held(512, 512), (96, 480, 512))
    session.keep(worker("decode-0"), Held(640, 640), (640,))

    assert session.held(ALL, 500) == {
        "prefill-0": Held(500, 480),
        "decode-0": Held(500, 0),
    }
    assert session.held(ALL, 700)["decode-0"] == Held(640, 640)


def test_nothing_is_held_of_an_abandoned_branch(session: SessionRecord) -> None:
    session.keep(worker("prefill-0"), Held(512, 512), (96, 480, 512))
    session.keep(worker("decode-0"), Held(640, 640), (640,))

    session.diverged(490)

    assert session.held(ALL) == {"prefill-0": Held(490, 480), "decode-0": Held(490, 0)}


def test_a_correction_keeps_earlier_states(session: SessionRecord) -> None:
    session.keep(worker("decode-0"), Held(640, 640), (96, 480, 640))

    session.correct(worker("decode-0"), Held(512, 480))

    assert session.held(ALL, 479)["decode-0"] == Held(479, 96)
    assert session.held(ALL)["decode-0"] == Held(512, 480)


def listed(table: SessionTable) -> list[str]:
    (names,) = pages(table, 100)
    return names


def pages(table: SessionTable, size: int) -> list[list[str]]:
    """All sessions, in pages of `size`."""
    found, after = [], 0
    while after is not None:
        page, after = table.page(after, size)
        found.append([info.session_id for info in page])
    return found


def test_pages_list_every_session_once_and_the_least_recently_placed_first() -> None:
    table = SessionTable(max_sessions=5, history_bytes=0)
    for number in (0, 1, 2, 3, 4, 5, 2):
        placed(table, SessionId(f"s{number}"))

    assert pages(table, 5) == pages(table, 100) == [["s1", "s3", "s4", "s5", "s2"]]
    assert pages(table, 2) == [["s1", "s3"], ["s4", "s5"], ["s2"]]
    assert pages(SessionTable(max_sessions=1, history_bytes=0), 2) == [[]]


def test_a_session_placed_between_two_pages_is_still_listed() -> None:
    table = SessionTable(max_sessions=9, history_bytes=0)
    for name in (A, B, C):
        placed(table, name)

    first, after = table.page(0, 1)
    placed(table, B)
    table.fork(C, SessionId("d"))
    assert after is not None
    rest, end = table.page(after, 9)

    assert [info.session_id for info in first + rest] == [A, C, B, "d"]
    assert end is None
