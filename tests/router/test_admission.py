from __future__ import annotations

import pytest

from router.admission import Admission, retry_after_s
from segue.errors import Overloaded, Unavailable


def test_one_turn_too_many_is_refused_with_a_hint() -> None:
    admission = Admission(max_turns=1)

    with admission.admit(), pytest.raises(Overloaded, match="1 turns are in flight") as refused:
        admission.admit().__enter__()

    assert refused.value.retry_after_s > 0


def test_a_place_is_free_again_when_its_turn_fails() -> None:
    admission = Admission(max_turns=1)

    with pytest.raises(RuntimeError), admission.admit():
        raise RuntimeError

    assert admission.num_turns == 0


def test_a_draining_router_takes_nothing() -> None:
    admission = Admission(max_turns=1)
    admission.is_draining = True

    with pytest.raises(Unavailable, match="draining"):
        admission.admit().__enter__()


@pytest.mark.parametrize(
    ("mean_s", "num_turns", "hint_s"), [(8.0, 4, 2.0), (0.001, 100, 0.05), (1e6, 1, 30.0)]
)
def test_the_hint_is_the_time_until_a_turn_ends(
    mean_s: float, num_turns: int, hint_s: float
) -> None:
    assert retry_after_s(mean_s, num_turns) == hint_s
