"""The last turns of each tenant."""

from __future__ import annotations

import pytest

from router.telemetry import recent
from router.telemetry.recent import MAX_TURNS, RecentTurns
from router.tenants.tenant import Tenant
from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import SessionId
from tests.router.placed import ManualClock, placing_of, spec

BLUE, RED = Tenant(name="blue"), Tenant(name="red")
END = TurnEnd(finish_reason=FinishReason.STOP)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.placing = placing_of(self.clock)
        self.recent = RecentTurns(self.clock)

    def take(self, tenant: Tenant, session: str, *, outcome: str = "stop") -> None:
        """A turn that takes a second."""
        turn = self.placing.turn(spec(session_id=tenant.owned(SessionId(session))))
        entry = self.recent.started(tenant, self.clock(), turn)
        turn.place(())
        self.clock.now += 1.0
        turn.first_token()
        turn.leave()
        entry.end = END if outcome == "stop" else None
        entry.ended(outcome)


def test_a_tenant_sees_its_own_turns_by_its_own_names_the_latest_first() -> None:
    world = World()
    world.take(BLUE, "one")
    world.take(RED, "theirs")
    world.take(BLUE, "two", outcome="disconnected")

    latest, first = world.recent.of(BLUE)

    assert (latest.explanation.session_id, first.explanation.session_id) == ("two", "one")
    assert (latest.outcome, latest.end, latest.age_s) == ("disconnected", None, 1.0)
    assert (first.outcome, first.end, first.age_s) == ("stop", END, 3.0)
    assert first.explanation.actual_s == 1.0
    assert [turn.explanation.session_id for turn in world.recent.of(RED)] == ["theirs"]
    assert world.recent.of(Tenant(name="green")) == []


def test_a_turn_that_runs_is_shown_once_it_is_placed() -> None:
    world = World()
    turn = world.placing.turn(spec())
    entry = world.recent.started(BLUE, world.clock(), turn)
    assert world.recent.of(BLUE) == []
    turn.place(())

    (shown,) = world.recent.of(BLUE)
    assert (shown.outcome, shown.end, shown.explanation.actual_s) == ("running", None, None)
    turn.leave()
    entry.ended("cancelled")
    (shown,) = world.recent.of(BLUE)
    assert shown.outcome == "cancelled"


def test_the_best_candidates_and_the_chosen_one_are_shown_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent, "MAX_CANDIDATES", 2)
    world = World()
    for name in ("one", "two", "three"):
        # Each keeps the workers that it finds busy.
        turn = world.placing.turn(spec(session_id=BLUE.owned(SessionId(name))))
        world.recent.started(BLUE, world.clock(), turn)
        turn.place(())

        (shown, *_) = world.recent.of(BLUE)
        whole = world.placing.table.explain(BLUE.owned(SessionId(name)))
        assert shown.num_candidates == len(whole.candidates) > 2
        assert shown.explanation.candidates[:2] == whole.candidates[:2]
        assert len(shown.explanation.candidates) == 2 + (whole.chosen not in whole.candidates[:2])
        assert shown.explanation.chosen == whole.chosen
        # Looking again finds the same.
        assert world.recent.of(BLUE)[0].explanation == shown.explanation


def test_a_tenants_oldest_turns_are_forgotten_and_it_may_ask_for_fewer() -> None:
    world = World()
    for number in range(MAX_TURNS + 3):
        world.take(BLUE, f"s{number}")
    world.take(RED, "theirs")

    names = [turn.explanation.session_id for turn in world.recent.of(BLUE)]
    assert names == [f"s{number}" for number in range(MAX_TURNS + 2, 2, -1)]
    assert [turn.explanation.session_id for turn in world.recent.of(BLUE, 2)] == names[:2]
