"""The worker that prefill pulls a prefix from."""

from __future__ import annotations

import pytest

from router.placement.estimate import Mode
from router.placement.placing import Placing
from segue.api.cluster.status import WorkerHealth
from segue.api.types import SessionId, WorkerId
from tests.router.placed import ManualClock, placing_of, result, serve, spec, worker


@pytest.fixture
def placing() -> Placing:
    return placing_of(ManualClock())


def test_a_source_is_named_even_if_prefill_is_believed_to_hold_everything(
    placing: Placing,
) -> None:
    """Prefill may have evicted the prefix in the meantime."""
    serve(placing, kept=6_464, prefill_kept=6_464)
    turn = placing.turn(spec(7_000))
    decision = turn.place(())

    holder = turn.reserved(6_464, 6_464)

    assert decision.chosen.mode is Mode.COMPUTE
    assert holder is not None
    assert (holder.worker_id, holder.checkpoint_tokens) == ("decode-0", 6_464)


def test_no_source_is_named_if_no_other_worker_holds_anything(placing: Placing) -> None:
    serve(placing)
    turn = placing.turn(spec(7_000))
    turn.place(())

    assert turn.reserved(0, 0) is None


def test_a_source_is_named_if_placement_decided_to_pull(placing: Placing) -> None:
    serve(placing, prefill_kept=0)
    turn = placing.turn(spec(7_000))
    decision = turn.place(())

    holder = turn.reserved(6_400, 6_400)

    assert decision.chosen.mode is Mode.PULL
    assert holder is not None
    assert (holder.worker_id, holder.epoch, holder.address) == ("decode-0", 1, "at decode-0")
    assert holder.checkpoint_tokens == 6_400


def test_a_prefix_that_decode_reports_is_pulled_after_all(placing: Placing) -> None:
    turn = placing.turn(spec(7_000, SessionId("")))
    decision = turn.place(())

    holder = turn.reserved(6_400, 6_400)

    assert decision.chosen.mode is Mode.COMPUTE
    assert holder is not None
    assert holder.checkpoint_tokens == 6_400


def test_if_decode_lost_the_prefix_the_next_longest_holder_is_the_source(placing: Placing) -> None:
    serve(placing, prefill_kept=0)
    placing.update_worker(worker("prefill-0", health=WorkerHealth.DRAINING))
    serve_elsewhere = placing.turn(spec())
    serve_elsewhere.place([WorkerId("decode-0")])
    serve_elsewhere.ended(result(6_336))
    serve_elsewhere.leave()
    turn = placing.turn(spec(7_000))
    decision = turn.place(())
    assert decision.placement.decode.worker_id == "decode-0"

    holder = turn.reserved(0, 0)

    assert holder is not None
    assert (holder.worker_id, holder.checkpoint_tokens) == ("decode-1", 6_336)
