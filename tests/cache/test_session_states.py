"""Superseded states of a session are evicted first; states that others use or that it may need
stay.
"""

from __future__ import annotations

from segue.api.prompt import Prompt
from segue.api.turn import TurnSpec
from segue.api.types import Sampling, SessionId, StopRules, TurnId
from segue.cache.prefix.states import SessionStates
from tests.cache.prefix_world import TO_PREFILL, World, prompt

PAGE = 4


class Desk(World):
    """Sequences that resume from the deepest state, and leave a state at each given position."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_pages=200, num_slots=num_slots, worth=TO_PREFILL)
        self.states = SessionStates(self.cache.pins)

    def turn(
        self, session: str, tokens: tuple[int, ...], *new: int, points: tuple[int, ...] = ()
    ) -> int:
        """Returns the position it resumed from."""
        turn = TurnSpec(
            turn_id=TurnId("turn"),
            session_id=SessionId(session),
            context=Prompt(tokens),
            sampling=Sampling(),
            stop=StopRules(max_tokens=1),
            branch_points=points,
        )
        hold = self.cache.hold_checkpoint(self.cache.match(turn.context))
        start = hold.num_tokens
        self.states.used(hold.checkpoint, turn.session_id)
        self.cache.make_room(len(tokens) // PAGE + 1, len(new))
        self.insert(hold, tokens, *new)
        self.states.kept(turn, hold.node, new)
        self.cache.release(hold)
        self.check()
        return start

    def kept(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return self.cache.find(Prompt(tokens)).node.states()


def test_a_state_before_the_last_one_is_evicted_first() -> None:
    desk = Desk(num_slots=3)
    tokens = tuple(prompt(1, 48))
    desk.turn("a", tokens[:13], 12)
    desk.turn("b", tuple(prompt(2, 9)), 8)
    desk.turn("a", tokens[:25], 24)

    desk.turn("c", tuple(prompt(3, 9)), 8)

    assert desk.kept(tokens[:24]) == (24,)
    assert desk.kept(tuple(prompt(2, 8))) == (8,)


def test_a_state_before_a_branch_point_stays() -> None:
    desk = Desk(num_slots=3)
    tokens = tuple(prompt(1, 48))
    desk.turn("a", tokens[:13], 12, points=(12,))
    desk.turn("a", tokens[:25], 24, points=(12,))
    desk.turn("a", tokens[:37], 36, points=(12,))

    desk.turn("b", tuple(prompt(2, 9)), 8)

    assert desk.kept(tokens[:36]) == (12, 36)


def test_a_state_that_another_session_uses_is_not_superseded() -> None:
    desk = Desk(num_slots=3)
    tokens = tuple(prompt(1, 48))
    desk.turn("a", tokens[:13], 12)
    assert desk.turn("b", (*tokens[:12], 99, 98, 97, 96, 95), 16) == 12
    desk.turn("a", tokens[:25], 24)

    assert desk.turn("c", (*tokens[:12], 89)) == 12
    assert not any(checkpoint.is_superseded for checkpoint in desk.cache.pins.checkpoints)


def test_resuming_from_a_superseded_state_makes_it_current() -> None:
    desk = Desk(num_slots=3)
    tokens = tuple(prompt(1, 48))
    desk.turn("a", tokens[:13], 12)
    desk.turn("a", tokens[:25], 24)

    assert desk.turn("other", (*tokens[:12], 99)) == 12
    desk.turn("b", tuple(prompt(2, 9)), 8)
    desk.turn("c", tuple(prompt(3, 9)), 8)

    assert 12 in desk.kept(tokens[:24])


def test_states_of_an_abandoned_branch_are_evicted_first() -> None:
    desk = Desk(num_slots=3)
    tokens = tuple(prompt(1, 48))
    desk.turn("a", tokens[:13], 12, points=(12,))
    desk.turn("a", tokens[:25], 24, points=(12,))
    desk.turn("a", (*tokens[:12], *range(50, 63)), 24, points=(24,))

    desk.turn("b", tuple(prompt(2, 9)), 8)
    desk.turn("c", tuple(prompt(3, 9)), 8)

    assert desk.kept((*tokens[:12], *range(50, 62))) == (24,)
    assert desk.kept(tokens[:24]) == ()
