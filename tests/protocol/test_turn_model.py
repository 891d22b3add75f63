"""All reachable states of one turn, with a lossy network and one death of each worker."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.protocol.turn_model import State, World, can_rest, is_at_rest, reachable, wrong_in


@pytest.fixture(scope="module")
def states() -> dict[State, list[State]]:
    return reachable(World())


def test_no_reachable_state_is_wrong(states: dict[State, list[State]]) -> None:
    assert Counter(map(wrong_in, states)) == {"": len(states)}
    # The search is not empty: some turns are answered, and some lose a worker on the way.
    assert any(state.has_answer for state in states)
    assert any(state.has_answer and state.writer_died for state in states)


def test_every_turn_can_come_to_rest(states: dict[State, list[State]]) -> None:
    """Whatever happened, some messages and deaths later nothing is held: no state is a trap."""
    assert set(states) - can_rest(states) == set()
    assert any(is_at_rest(state) for state in states)


def test_a_broken_connection_to_a_lost_writer_does_not_prove_its_death() -> None:
    """The search finds it: a writer that was only cut off still writes into memory that is free."""
    wrongs = Counter(map(wrong_in, reachable(World(breaks_prove_death=True))))

    assert wrongs["memory may be written that is not set aside for it"] > 0
