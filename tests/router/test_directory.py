"""Where sessions are: what workers said that they keep, until it is known better."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.directory import Residence, SessionDirectory
from router.placement.node import Node
from router.placement.side import Held
from segue.cluster_status import WorkerHealth, WorkerStatus
from segue.types import Epoch, Role, SessionId, WorkerId

HERE = Residence(prefill=WorkerId("prefill-0"), decode=WorkerId("decode-0"))
A, B, C = SessionId("a"), SessionId("b"), SessionId("c")


def worker(name: str, *, epoch: int = 1) -> WorkerStatus:
    return WorkerStatus(
        worker_id=WorkerId(name), role=Role(name.split("-")[0]), epoch=Epoch(epoch), address=name
    )


def nodes(*workers: WorkerStatus) -> dict[WorkerId, Node]:
    table = {}
    for status in workers:
        table[status.worker_id] = Node(status, status.worker_id)
        table[status.worker_id].heard(status)
    return table


EVERYBODY = nodes(*(worker(f"{role}-{number}") for role in Role for number in range(3)))


@pytest.fixture
def directory() -> SessionDirectory:
    directory = SessionDirectory(max_sessions=2)
    directory.remember(A, HERE)
    return directory


def test_the_longest_unused_session_is_forgotten_first(directory: SessionDirectory) -> None:
    for name in (B, A, C):
        directory.remember(name, HERE)

    assert directory.find(A) == HERE
    assert directory.find(B) is None
    assert len(directory) == 2


def test_what_the_last_two_workers_of_each_role_keep_is_known(directory: SessionDirectory) -> None:
    for tokens, name in enumerate(("decode-0", "decode-1", "decode-2", "decode-1", "prefill-0"), 1):
        directory.keep(A, worker(name), Held(16 * tokens, 16))

    assert directory.held(A, EVERYBODY) == {
        "decode-1": Held(64, 16),
        "decode-2": Held(48, 16),
        "prefill-0": Held(80, 16),
    }


def test_a_session_that_nobody_placed_is_not_kept(directory: SessionDirectory) -> None:
    directory.keep(B, worker("decode-0"), Held(16, 16))

    assert directory.held(B, EVERYBODY) == {}
    assert len(directory) == 1


def test_another_life_of_a_worker_and_a_lost_one_hold_nothing(directory: SessionDirectory) -> None:
    directory.keep(A, worker("decode-0"), Held(32, 16))
    later = nodes(worker("decode-0", epoch=2))
    lost = nodes(replace(worker("decode-0"), health=WorkerHealth.LOST))
    draining = nodes(replace(worker("decode-0"), health=WorkerHealth.DRAINING))

    assert directory.held(A, later) == directory.held(A, lost) == {}
    assert directory.held(A, draining) == {"decode-0": Held(32, 16)}


def test_a_correction_changes_what_a_worker_holds_and_not_who_answered_last(
    directory: SessionDirectory,
) -> None:
    directory.keep(A, worker("decode-0"), Held(32, 16))
    directory.keep(A, worker("decode-1"), Held(64, 48))

    directory.correct(A, worker("decode-0"), Held(16, 0))
    directory.correct(A, worker("decode-2"), Held(16, 16))

    kept = directory.kept(A)
    assert kept is not None
    assert (kept.worker_id, kept.tokens) == ("decode-1", 64)
    assert directory.held(A, EVERYBODY) == {"decode-1": Held(64, 48), "decode-0": Held(16, 0)}


def test_a_fork_begins_where_its_parent_is_and_goes_its_own_way(
    directory: SessionDirectory,
) -> None:
    directory.keep(A, worker("decode-0"), Held(32, 16))
    directory.fork(A, B)

    directory.keep(B, worker("decode-1"), Held(64, 64))

    assert directory.held(A, EVERYBODY) == {"decode-0": Held(32, 16)}
    assert directory.held(B, EVERYBODY) == {"decode-1": Held(64, 64), "decode-0": Held(32, 16)}


def test_a_prompt_that_parted_is_held_up_to_a_state_before_that(
    directory: SessionDirectory,
) -> None:
    directory.keep(A, worker("prefill-0"), Held(512, 512), (96, 480, 512))
    directory.keep(A, worker("decode-0"), Held(640, 640), (640,))

    assert directory.held(A, EVERYBODY, 500) == {
        "prefill-0": Held(500, 480),
        "decode-0": Held(500, 0),
    }
    assert directory.held(A, EVERYBODY, 700)["decode-0"] == Held(640, 640)


def test_of_a_branch_that_the_session_left_nothing_is_held(directory: SessionDirectory) -> None:
    directory.keep(A, worker("prefill-0"), Held(512, 512), (96, 480, 512))
    directory.keep(A, worker("decode-0"), Held(640, 640), (640,))

    directory.parted(A, 490)

    assert directory.held(A, EVERYBODY) == {"prefill-0": Held(490, 480), "decode-0": Held(490, 0)}
    directory.parted(B, 10)
    assert directory.held(B, EVERYBODY) == {}


def test_a_correction_leaves_the_states_before_what_is_there(directory: SessionDirectory) -> None:
    directory.keep(A, worker("decode-0"), Held(640, 640), (96, 480, 640))

    directory.correct(A, worker("decode-0"), Held(512, 480))

    assert directory.held(A, EVERYBODY, 479)["decode-0"] == Held(479, 96)
    assert directory.held(A, EVERYBODY)["decode-0"] == Held(512, 480)


def pages(directory: SessionDirectory, size: int) -> list[list[str]]:
    """All of them, in pages of so many sessions."""
    found, after = [], 0
    while after is not None:
        page, after = directory.page(after, size)
        found.append([info.session_id for info in page])
    return found


def test_pages_have_every_session_once_and_the_least_recently_used_first() -> None:
    directory = SessionDirectory(max_sessions=5)
    for number in (0, 1, 2, 3, 4, 5, 2):
        directory.remember(SessionId(f"s{number}"), HERE)

    assert pages(directory, 5) == pages(directory, 100) == [["s1", "s3", "s4", "s5", "s2"]]
    assert pages(directory, 2) == [["s1", "s3"], ["s4", "s5"], ["s2"]]
    assert pages(SessionDirectory(max_sessions=1), 2) == [[]]


def test_a_session_that_is_used_between_two_pages_is_not_left_out() -> None:
    directory = SessionDirectory(max_sessions=9)
    for name in (A, B, C):
        directory.remember(name, HERE)

    first, after = directory.page(0, 1)
    directory.remember(B, HERE)
    directory.fork(C, SessionId("d"))
    assert after is not None
    rest, end = directory.page(after, 9)

    assert [info.session_id for info in first + rest] == [A, C, B, "d"]
    assert end is None
