"""Placement in use: seats, the router's records of sessions, and learning from turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.placement.estimate import Mode
from router.placement.placing import Placing
from segue.api.cluster.status import WorkerHealth
from segue.api.errors import NotFound, Unavailable
from segue.api.turn import ShipReport
from segue.api.types import Sampling, SessionId, WorkerId
from tests.router.placed import (
    AGENT,
    NAMES,
    ManualClock,
    held,
    history_of,
    placing_of,
    result,
    seats,
    serve,
    spec,
    worker,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def placing(clock: ManualClock) -> Placing:
    return placing_of(clock)


def test_a_turn_has_a_seat_until_it_leaves(placing: Placing) -> None:
    turn = placing.turn(spec())
    turn.place(())
    assert seats(placing) == {"prefill-0": (1, 1, 6_400), "decode-0": (1, 0, 0)}

    turn.first_token()
    assert seats(placing) == {"decode-0": (1, 0, 0)}

    turn.leave()
    turn.leave()
    assert seats(placing) == {}


def test_a_turn_that_is_placed_again_has_only_the_new_seat(placing: Placing) -> None:
    turn = placing.turn(spec())
    turn.place(())

    turn.place([WorkerId("prefill-0")])

    assert seats(placing) == {"prefill-1": (1, 1, 6_400), "decode-0": (1, 0, 0)}


def test_a_turn_that_cannot_be_placed_again_has_no_seat(placing: Placing) -> None:
    turn = placing.turn(spec())
    turn.place(())
    for name in ("decode-0", "decode-1"):
        placing.update_worker(worker(name, health=WorkerHealth.LOST))

    with pytest.raises(Unavailable):
        turn.place(())

    assert seats(placing) == {}


def test_the_record_of_kept_tokens_lasts_until_the_worker_dies(placing: Placing) -> None:
    serve(placing, kept=6_464, prefill_kept=6_336)
    assert held(placing) == {"decode-0": (6_464, 6_464), "prefill-0": (6_336, 6_336)}

    placing.update_worker(worker("decode-0", epoch=2))
    placing.update_worker(worker("prefill-0", health=WorkerHealth.LOST))

    assert held(placing) == {}


def test_a_prefill_worker_that_keeps_nothing_is_recorded_as_empty(placing: Placing) -> None:
    serve(placing, prefill_kept=0)

    assert held(placing)[WorkerId("prefill-0")] == (0, 0)


def test_decodes_report_at_reservation_corrects_the_record(placing: Placing) -> None:
    serve(placing)
    turn = placing.turn(spec(7_000))
    turn.place(())

    turn.reserved(640, 640)

    assert held(placing)[WorkerId("decode-0")] == (640, 640)


def test_a_short_suffix_is_left_to_decode_until_decode_refuses(clock: ManualClock) -> None:
    placing = placing_of(clock, local_prefill_max_tokens=256)
    serve(placing)
    turn = placing.turn(spec(6_500))
    assert turn.place(()).chosen.mode is Mode.LOCAL
    assert seats(placing) == {"decode-0": (1, 1, 100)}

    turn.local_refused()
    decision = turn.place(())

    assert decision.chosen.mode is not Mode.LOCAL
    assert seats(placing).keys() == {decision.chosen.prefill, "decode-0"}


def test_a_prompt_that_is_scored_is_computed_whole_by_a_prefill_worker(clock: ManualClock) -> None:
    """No state is of use, but pages that decode holds need not move."""
    placing = placing_of(clock, local_prefill_max_tokens=8_192)
    serve(placing)
    asked = replace(spec(6_500), sampling=Sampling(prompt_logprobs=0))
    turn = placing.turn(asked)
    decision = turn.place(())

    assert {c.mode for c in decision.candidates} == {Mode.COMPUTE}
    assert decision.chosen.plan.computed_tokens == 6_500
    assert (decision.chosen.decode, decision.chosen.target.moved_tokens) == ("decode-0", 100)
    assert turn.reserved(6_400, 6_400) is None
    assert placing.turn(spec(6_500)).place(()).chosen.mode is Mode.LOCAL


def test_local_prefill_teaches_decodes_own_speed(clock: ManualClock) -> None:
    placing = placing_of(clock, local_prefill_max_tokens=256)
    serve(placing)
    before = dict(placing.cluster.own_speeds)
    turn = placing.turn(spec(6_500))
    turn.place(())
    turn.first_token()
    turn.ended(result(6_528, computed_tokens=100, prefill_s=0.1))
    turn.leave()

    after = placing.cluster.own_speeds
    decode = WorkerId("decode-0")
    assert after[decode].compute.num_observed == 1
    assert after[decode].link == before[decode].link
    # Decode held nothing of the prompt before, and the prefill worker still holds its part.
    assert held(placing) == {"decode-0": (6_528, 6_528), "prefill-0": (6_400, 6_400)}


def test_a_turn_teaches_its_cost_and_the_error_of_the_estimate(
    placing: Placing, clock: ManualClock
) -> None:
    turn = placing.turn(spec())
    estimated_s = turn.place(()).chosen.total_s
    turn.reserved(0, 0)
    clock.now += 1.9 * estimated_s
    turn.first_token()
    turn.ended(result(computed_tokens=6_400, prefill_s=3.0))

    explanation = placing.table.explain(AGENT)
    assert explanation.actual_s == pytest.approx(1.9 * explanation.estimated_s)
    assert placing.cluster.coefficients.pooled.compute.at(6_400) == pytest.approx(3.0)
    sample = placing.metrics.registry.get_sample_value
    bucket = "segue_placement_estimate_error_bucket"
    assert [sample(bucket, {"le": at}) for at in ("0.25", "0.5", "0.75")] == [0.0, 1.0, 1.0]


def test_the_explanation_shows_every_candidate(placing: Placing) -> None:
    turn = placing.turn(spec())
    decision = turn.place(())

    explanation = placing.table.explain(AGENT)

    assert len(explanation.candidates) == len(decision.candidates)
    assert explanation.chosen.prefill_worker == decision.chosen.prefill
    assert explanation.actual_s is None
    assert {speed.worker_id for speed in explanation.speeds} == set(NAMES)
    one = explanation.candidates[0]
    parts = (one.queue_s, one.pull_s, one.compute_s, one.move_s, one.hidden_s, one.overhead_s)
    assert sum(parts) == pytest.approx(one.total_s)


def test_nothing_is_recorded_for_a_turn_without_a_session(placing: Placing) -> None:
    turn = placing.turn(spec(session_id=SessionId("")))
    turn.place(())
    turn.reserved(64, 64)
    turn.first_token()
    turn.ended(result(6_400))
    turn.leave()

    assert len(placing.table) == 0
    with pytest.raises(NotFound, match="no decision is remembered"):
        placing.table.explain(SessionId(""))


def test_the_page_size_comes_from_the_workers(placing: Placing) -> None:
    assert placing.rules.page_tokens == 64


def test_a_diverging_prompt_goes_to_the_worker_with_a_state_before_that(clock: ManualClock) -> None:
    placing = placing_of(clock, local_prefill_max_tokens=256)
    first = placing.turn(spec())
    first.place(())
    first.first_token()
    first.ended(
        replace(
            result(6_464),
            report=ShipReport(
                computed_tokens=6_400,
                prefill_s=1.0,
                kept_tokens=6_336,
                kept_states=(96, 6_272, 6_336),
            ),
        )
    )
    first.leave()

    as_it_was = placing.turn(spec(6_500), known=history_of(6_480)).place(()).chosen
    rendered_otherwise = placing.turn(spec(6_500), known=history_of(6_300)).place(()).chosen

    assert as_it_was.mode is Mode.LOCAL
    assert rendered_otherwise.prefill == "prefill-0"
    assert rendered_otherwise.plan.computed_tokens == 6_500 - 6_272


def test_decode_may_compute_about_as_much_as_was_expected(clock: ManualClock) -> None:
    placing = placing_of(clock, local_prefill_max_tokens=256)
    serve(placing)
    turn = placing.turn(spec(6_500))
    assert turn.place(()).chosen.mode is Mode.LOCAL

    assert turn.max_local_tokens == 100 + 64


def test_a_diverged_turn_leaves_no_record_of_the_other_branch(placing: Placing) -> None:
    serve(placing)
    turn = placing.turn(spec(6_500), known=history_of(6_000))
    turn.place(("prefill-0", "decode-0"))
    turn.first_token()
    turn.ended(result(6_528, computed_tokens=6_500, kept_tokens=6_500))
    turn.leave()

    assert held(placing)[WorkerId("decode-0")] == (6_000, 0)
    assert held(placing)[WorkerId("decode-1")] == (6_528, 6_528)


def test_reuse_is_counted_where_it_is_held_captured_and_delivered(placing: Placing) -> None:
    serve(placing, kept=6_400, prefill_kept=6_336)
    turn = placing.turn(spec(6_464), known=history_of(6_464))
    turn.place(())
    turn.reserved(6_400, 6_400)
    turn.first_token()
    # A pull of all that decode held was expected, but half of it had been evicted.
    turn.ended(result(6_464, computed_tokens=3_232))
    turn.leave()
    registry = placing.metrics.registry
    points = ("held", "captured", "delivered")
    counted = [registry.get_sample_value(f"segue_reuse_{point}_tokens_total") for point in points]

    assert counted == [6_400, 6_400, 3_232]
