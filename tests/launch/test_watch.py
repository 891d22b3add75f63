"""What a person learns of a process that dies."""

from __future__ import annotations

import pytest

from segue.launch.watch import Life

DIED, BACK = "router died (pid 7); Ray starts it again", "router runs again (pid 8)"


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
        ([None, 7], ["router died; Ray starts it again", BACK.replace("8", "7")]),
    ],
)
def test_each_death_and_each_return_is_one_line(
    answers: list[int | None], lines: list[str]
) -> None:
    life = Life("router")

    said = [
        line for pid in answers for line in (life.died() if pid is None else life.answered(pid))
    ]

    assert said == lines
