"""What a person learns of a process that dies."""

from __future__ import annotations

import pytest

from segue.launch.watch import Life, role_lost

DIED, BACK = "router has ended (pid 7); Ray starts it again", "router serves again (pid 8)"


@pytest.mark.parametrize(
    ("answers", "lines"),
    [
        ([7, 7, 7], []),
        ([7, None, 8, 8], [DIED, BACK]),
        # Asked only before and after.
        ([7, 8], [DIED, BACK]),
        # Ray reports the death more than once.
        ([7, None, None, None, 8], [DIED, BACK]),
        # It dies again before it has answered.
        ([7, None, 8, None, 9], [DIED, BACK, DIED.replace("7", "8"), BACK.replace("8", "9")]),
        # It died before it was asked.
        ([None, 7], ["router has ended; Ray starts it again", BACK.replace("8", "7")]),
        # A process that does not serve yet has a negative id here.
        ([-7, 7, 7], []),
        ([7, None, -8, -8, 8, 8], [DIED, BACK]),
        ([7, -8, 8], [DIED, BACK]),
        # It dies while it starts, also between two questions.
        ([7, None, -8, None, -9, 9], [DIED, BACK.replace("8", "9")]),
        ([7, None, -8, -9, 9], [DIED, BACK.replace("8", "9")]),
    ],
)
def test_each_death_and_each_return_is_one_line(
    answers: list[int | None], lines: list[str]
) -> None:
    life = Life("router")

    said = [
        line
        for pid in answers
        for line in (life.died() if pid is None else life.answered(abs(pid), serves=pid > 0))
    ]

    assert said == lines


def test_without_the_gcs_a_death_promises_no_restart() -> None:
    life = Life("router", pid=7)

    assert list(life.died(is_restarted=False)) == [
        "router has ended (pid 7); it is not started again"
    ]


def test_a_process_that_starts_is_not_dead() -> None:
    life = Life("router", pid=7)

    list(life.died())
    was_dead = life.is_dead
    list(life.answered(8, serves=False))

    assert (was_dead, life.is_dead) == (True, False)


@pytest.mark.parametrize(
    ("dead", "role"),
    [
        ([], ""),
        (["decode-0"], ""),
        (["decode-0", "prefill-1"], ""),
        (["decode-0", "decode-1"], "decode"),
        (["router"], ""),
        (["router", "router-1"], "router"),
        (["gateway"], "gateway"),
    ],
)
def test_a_role_is_lost_with_its_last_process(dead: list[str], role: str) -> None:
    processes = ["router", "router-1", "gateway", "prefill-0", "prefill-1", "decode-0", "decode-1"]

    assert role_lost(processes, dead) == role
