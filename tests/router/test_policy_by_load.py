"""Placement by load, for as long as nothing is known of residency: a table of clusters."""

from __future__ import annotations

import pytest

from router.policy import Residence, place_by_load
from segue.errors import Unavailable
from segue.types import Epoch, Role, UnitCounts, WorkerHealth, WorkerId, WorkerLoad, WorkerStatus


def worker(
    name: str, *, running: int = 0, free: int = 10, health: WorkerHealth = WorkerHealth.READY
) -> WorkerStatus:
    return WorkerStatus(
        worker_id=WorkerId(name),
        role=Role(name.split("-")[0]),
        epoch=Epoch(1),
        address=f"127.0.0.1:{name}",
        health=health,
        load=WorkerLoad(running_turns=running, pages=UnitCounts(total=10, free=free)),
    )


def placed(*workers: WorkerStatus, **options: object) -> tuple[str, str]:
    settings: dict[str, object] = {"residence": None, "sticky_imbalance": 2, **options}
    in_flight = settings.pop("in_flight", {})
    placement = place_by_load(workers, in_flight, **settings)  # type: ignore[arg-type]  # a test's options
    return placement.prefill.worker_id, placement.decode.worker_id


RESIDENCE = Residence(prefill=WorkerId("prefill-1"), decode=WorkerId("decode-1"))
TWO_BY_TWO = [worker("prefill-0"), worker("prefill-1"), worker("decode-0"), worker("decode-1")]


def test_an_idle_cluster_is_filled_in_order_of_names() -> None:
    assert placed(*TWO_BY_TWO) == ("prefill-0", "decode-0")


def test_the_least_loaded_worker_of_each_role_is_chosen() -> None:
    busy = [worker("prefill-0", running=1), worker("decode-0", running=3)]

    assert placed(*busy, worker("prefill-1"), worker("decode-1", running=2)) == (
        "prefill-1",
        "decode-1",
    )


def test_what_the_router_has_in_flight_counts_before_a_worker_reports_it() -> None:
    assert placed(*TWO_BY_TWO, in_flight={"decode-0": 1}) == ("prefill-0", "decode-1")


def test_equal_loads_go_to_the_worker_with_more_free_pages() -> None:
    assert placed(worker("prefill-0"), worker("decode-0", free=1), worker("decode-1", free=9)) == (
        "prefill-0",
        "decode-1",
    )


def test_a_session_stays_on_its_own_workers() -> None:
    assert placed(*TWO_BY_TWO, residence=RESIDENCE) == ("prefill-1", "decode-1")


def test_a_session_leaves_a_worker_that_is_much_busier_than_another() -> None:
    busy = [worker("decode-0"), worker("decode-1", running=2), *TWO_BY_TWO[:2]]

    assert placed(*busy, residence=RESIDENCE) == ("prefill-1", "decode-0")


@pytest.mark.parametrize("health", [WorkerHealth.LOST, WorkerHealth.DRAINING])
def test_only_ready_workers_take_turns(health: WorkerHealth) -> None:
    workers = [*TWO_BY_TWO[:3], worker("decode-1", health=health)]

    assert placed(*workers, residence=RESIDENCE) == ("prefill-1", "decode-0")


def test_a_worker_that_just_failed_is_avoided_while_there_is_another() -> None:
    assert placed(*TWO_BY_TWO, avoid={"decode-0"}) == ("prefill-0", "decode-1")


def test_a_worker_that_just_failed_is_used_again_when_there_is_no_other() -> None:
    assert placed(*TWO_BY_TWO[:3], avoid={"decode-0"}) == ("prefill-0", "decode-0")


def test_a_cluster_without_a_decode_worker_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no decode worker is ready"):
        placed(*TWO_BY_TWO[:2])
