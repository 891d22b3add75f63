"""The positions in a prompt at which states are kept, and the states that a next turn may need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cache.prefix.states import resumable_states, states_wanted

PAGE = 16


def wanted(points: tuple[int, ...], start: int, end: int, **more: int) -> list[int]:
    return sorted(states_wanted(points, start, end, page_tokens=PAGE, **more))


@pytest.mark.parametrize(
    ("num_prompt", "positions"),
    [(1023, [1008]), (1024, [1008]), (1025, [1024]), (16, []), (17, [16])],
)
def test_the_same_prompt_again_finds_a_state_before_its_last_token(
    num_prompt: int, positions: list[int]
) -> None:
    assert wanted((), 0, num_prompt) == positions


@given(st.integers(1, 300), st.integers(0, 40))
def test_for_any_length_there_is_a_state_before_the_rewritten_part(
    num_prompt: int, num_rewritten: int
) -> None:
    point = max(num_prompt - num_rewritten, 0)
    # The state at the prompt's end is also kept, if that is a page's end.
    kept = [*wanted((point,), 0, num_prompt), num_prompt // PAGE * PAGE]

    assert max((at for at in kept if at <= point), default=0) == point // PAGE * PAGE


def test_a_cached_state_is_not_kept_again() -> None:
    assert wanted((100, 300), 96, 310) == [288, 304]


def test_a_state_is_kept_where_another_prompt_branched_off() -> None:
    assert wanted((), 0, 2200, branched_at=1488) == [1488, 2192]
    assert wanted((), 1488, 2200, branched_at=1488) == [2192]


def test_with_room_for_one_state_it_is_at_the_next_turns_branch_point() -> None:
    assert states_wanted((100, 500), 0, 530, page_tokens=PAGE)[0] == 496


def test_positions_in_one_page_share_a_state() -> None:
    assert wanted((500, 503), 0, 509) == [496]


@given(st.integers(0, 5000), st.integers(1, 300_000))
def test_a_long_prompt_has_few_states_at_positions_that_longer_ones_share(
    start: int, num_more: int
) -> None:
    positions = wanted((), start, start + num_more, stride=4096)

    assert len(positions) <= 6
    assert all(at % 4096 == 0 for at in positions[:-1])


def test_if_many_states_are_wanted_only_the_last_few_are_kept() -> None:
    positions = wanted(tuple(range(0, 10_000, 100)), 0, 10_000)

    assert len(positions) == 10
    assert positions[-1] == 9_888


def test_a_next_turn_may_resume_before_each_branch_point_and_at_the_end() -> None:
    kept = (96, 480, 496, 512, 600)

    assert resumable_states(kept, (100, 500), num_prompt=512) == (96, 496, 600)
    assert resumable_states(kept, (), num_prompt=600) == (512, 600)
    assert resumable_states((), (100,), num_prompt=512) == ()
