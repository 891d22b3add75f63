"""New sessions and the workers that hold a shared prefix of their prompts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from router.config import RouterConfig
from router.metrics import RouterMetrics
from router.placement.coefficients import Observation
from router.placement.placing import Placing
from router.placement.shared_prefixes import SharedPrefix, SharedPrefixIndex, shared_prefix_of
from router.sessions.table import SessionTable
from segue.api.cluster.status import WorkerHealth
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, ShipReport, TurnResult, TurnSpec, Usage
from segue.api.types import Sampling, SessionId, StopRules, TurnId, WorkerId
from tests.router.placed import worker

PAGE = 64
SYSTEM = (1,) * 6_000
SHARED = 5_952
"""Whole pages of the system message."""


def spec(name: str, *, system: tuple[int, ...] = SYSTEM) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId(name),
        session_id=SessionId(name),
        context=Prompt((*system, *range(1_000, 1_400))),
        sampling=Sampling(),
        stop=StopRules(max_tokens=64),
        branch_points=(len(system),),
    )


@pytest.fixture
def placing() -> Placing:
    config = RouterConfig(local_prefill_max_tokens=0)
    table = SessionTable(max_sessions=100, history_bytes=0)
    placing = Placing(config, table, RouterMetrics(), clock=lambda: 100.0)
    for name in ("prefill-0", "prefill-1", "decode-0", "decode-1"):
        placing.update_worker(worker(name))
    return placing


def serve(
    placing: Placing, turn: TurnSpec, *, avoid: tuple[str, ...] = (), kept: int = 6_400
) -> tuple[str, str]:
    """Runs a turn from placement to end; returns its workers."""
    placed = placing.turn(turn)
    placement = placed.place([WorkerId(name) for name in avoid]).placement
    placed.first_token()
    placed.ended(
        TurnResult(
            finish_reason=FinishReason.STOP,
            usage=Usage(completion_tokens=20),
            report=ShipReport(computed_tokens=6_400, prefill_s=1.0, kept_tokens=kept),
            decode_s=0.2,
            kept_tokens=kept,
        )
    )
    placed.leave()
    return placement.prefill.worker_id, placement.decode.worker_id


def test_a_new_session_is_prefilled_by_the_worker_with_its_shared_prefix(placing: Placing) -> None:
    first = serve(placing, spec("first"), avoid=("prefill-0", "decode-0"))

    second = serve(placing, spec("second"))

    assert (first[0], second[0]) == ("prefill-1", "prefill-1")


def test_sessions_with_a_shared_prefix_spread_over_all_decode_workers(placing: Placing) -> None:
    places = [serve(placing, spec(f"session-{number}")) for number in range(40)]

    assert len({prefill for prefill, _ in places}) == 1
    assert Counter(decode for _, decode in places) == {"decode-0": 20, "decode-1": 20}


def test_a_session_returns_to_its_workers(placing: Placing) -> None:
    homes = {name: serve(placing, spec(name))[1] for name in ("a", "b", "c", "d")}

    assert {name: serve(placing, spec(name))[1] for name in homes} == homes


def test_a_much_slower_worker_gets_no_session_just_to_spread_the_load(
    placing: Placing,
) -> None:
    for _ in range(20):
        placing.cluster.learn(
            Observation(
                prefill=WorkerId("prefill-0"),
                decode=WorkerId("decode-1"),
                computed_tokens=6_400,
                shipped_tokens=6_400,
                shipped_bytes=6_400 << 14,
                prefill_s=1.0,
                transfer_s=30.0,
                exposed_transfer_s=30.0,
                placed_to_first_token_s=31.0,
            )
        )

    places = [serve(placing, spec(f"session-{number}")) for number in range(8)]

    assert {decode for _, decode in places} == {"decode-0"}


def test_a_session_with_another_prefix_is_placed_elsewhere(placing: Placing) -> None:
    serve(placing, spec("first"), avoid=("prefill-0", "decode-0"))

    assert serve(placing, spec("second", system=(2,) * 6_000)) == ("prefill-0", "decode-0")


def test_a_long_queue_outweighs_the_shared_prefix(placing: Placing) -> None:
    serve(placing, spec("first"), avoid=("prefill-0", "decode-0"))
    for number in range(8):
        placing.turn(spec(f"waiting-{number}")).place([WorkerId("prefill-0")])

    placement = placing.turn(spec("last")).place(()).placement

    assert placement.prefill.worker_id == "prefill-0"


def test_a_session_with_its_own_prefix_stays_with_it(placing: Placing) -> None:
    own = serve(placing, spec("own"), avoid=("prefill-1", "decode-1"))
    serve(placing, spec("other"), avoid=("prefill-0", "decode-0"))

    assert serve(placing, spec("own")) == own


def test_workers_that_kept_nothing_have_no_record(placing: Placing) -> None:
    serve(placing, spec("first"), avoid=("prefill-0", "decode-0"), kept=0)

    assert serve(placing, spec("second")) == ("prefill-0", "decode-0")


@pytest.mark.parametrize("gone", [{"epoch": 2}, {"health": WorkerHealth.LOST}])
def test_a_lost_workers_prefixes_are_forgotten(placing: Placing, gone: dict[str, Any]) -> None:
    serve(placing, spec("first"), avoid=("prefill-0", "decode-0"))
    prefix = shared_prefix_of(spec("second"), PAGE)
    assert prefix is not None

    placing.update_worker(worker("prefill-1", **gone))

    assert set(placing.shared_prefixes.held(prefix, placing.cluster.nodes)) == {"decode-1"}


def test_prefill_holds_the_state_and_decode_the_pages(placing: Placing) -> None:
    serve(placing, spec("first"), avoid=("prefill-0", "decode-0"))
    prefix = shared_prefix_of(spec("second"), PAGE)
    assert prefix is not None

    held = placing.shared_prefixes.held(prefix, placing.cluster.nodes)

    assert held == {"prefill-1": (SHARED, SHARED), "decode-1": (SHARED, 0)}


def test_a_shared_prefix_consists_of_the_prompts_first_whole_pages() -> None:
    first, second = spec("first"), spec("second", system=(*SYSTEM[:-1], 9))

    # They differ after the last whole page.
    assert shared_prefix_of(first, PAGE) == shared_prefix_of(second, PAGE)
    assert shared_prefix_of(first, 16) != shared_prefix_of(second, 16)


@pytest.mark.parametrize("system", [(), (1,) * 63])
def test_a_shared_prefix_shorter_than_a_page_does_not_count(system: tuple[int, ...]) -> None:
    assert shared_prefix_of(spec("first", system=system), PAGE) is None


def test_the_last_four_workers_of_a_role_are_remembered_least_busy_first(placing: Placing) -> None:
    index, one = SharedPrefixIndex(2), SharedPrefix(64, 1)
    for number, turns in enumerate((0, 5, 3, 9, 1, 4)):
        placing.update_worker(worker(f"prefill-{number}", running=turns))
        index.served(one, [worker(f"prefill-{number}")])

    held = index.held(one, placing.cluster.nodes)

    assert list(held) == ["prefill-4", "prefill-2", "prefill-5", "prefill-3"]


def test_the_least_recently_used_prefix_is_forgotten(placing: Placing) -> None:
    index, holder = SharedPrefixIndex(2), worker("prefill-0")
    for digest in (1, 2, 1, 3):
        index.served(SharedPrefix(64, digest), [holder])

    held = [index.held(SharedPrefix(64, digest), placing.cluster.nodes) for digest in (1, 2, 3)]

    assert [bool(workers) for workers in held] == [True, False, True]


def test_a_worker_that_is_gone_holds_no_prefix(placing: Placing) -> None:
    serve(placing, spec("first"))
    assert len(placing.shared_prefixes) == 1

    for name in ("prefill-0", "decode-0"):
        placing.gone(worker(name))

    assert len(placing.shared_prefixes) == 0


def test_a_leaving_worker_does_not_change_which_prefix_is_forgotten_next(
    placing: Placing,
) -> None:
    index = SharedPrefixIndex(2)
    for digest in (1, 2, 1):
        index.served(SharedPrefix(64, digest), [worker("prefill-0"), worker("prefill-1")])

    index.gone(WorkerId("prefill-1"))
    index.served(SharedPrefix(64, 3), [worker("prefill-0")])

    held = [index.held(SharedPrefix(64, digest), placing.cluster.nodes) for digest in (1, 2, 3)]
    assert [list(workers) for workers in held] == [["prefill-0"], [], ["prefill-0"]]
