"""How a placed turn counts in the placement of others."""

from __future__ import annotations

import pytest

from segue.api.errors import Unavailable
from segue.api.types import WorkerId
from tests.router.small_cluster import cluster_of, decide, where, worker


def test_a_seat_counts_once_and_until_it_is_left() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    assert where(decide(cluster))[:2] == ("prefill-1", "decode-1")

    cluster.prefilled(seat)
    assert where(decide(cluster))[:2] == ("prefill-0", "decode-1")
    cluster.leave(seat)
    cluster.leave(seat)

    assert where(decide(cluster))[:2] == ("prefill-0", "decode-0")


def test_own_turns_in_a_report_are_not_counted_twice() -> None:
    cluster = cluster_of()
    cluster.take(decide(cluster))
    cluster.update_worker(worker("prefill-0", queued=50_000, running=1))
    cluster.update_worker(worker("decode-0", running=3))

    node = cluster.nodes[WorkerId("prefill-0")]
    assert (node.own_tokens, node.other_tokens) == (50_000, 0)
    assert cluster.nodes[WorkerId("decode-0")].running_turns == 3


def test_turns_of_an_earlier_life_do_not_count_for_the_later_one() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    cluster.update_worker(worker("prefill-0", epoch=2))
    again = cluster.take(decide(cluster))

    cluster.leave(seat)

    assert again.prefill.worker_id == "prefill-0"
    assert cluster.nodes[WorkerId("prefill-0")].own_tokens == 50_000


def test_turns_placed_since_the_last_heartbeat_take_memory() -> None:
    cluster = cluster_of(worker("decode-0", free=800), worker("decode-1", free=9_000, running=1))
    cluster.update_worker(worker("decode-2", free=9_000, running=1))

    seat = cluster.take(decide(cluster))
    assert seat.decode.worker_id == "decode-0"
    cluster.update_worker(worker("decode-1", running=1))
    assert decide(cluster).chosen.decode != "decode-0"
    cluster.leave(seat)
    assert decide(cluster).chosen.decode == "decode-0"


def test_a_worker_that_is_gone_takes_no_turns_and_its_last_seat_can_still_be_left() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    assert seat.decode.worker_id == "decode-0"

    cluster.gone(worker("decode-0"))
    cluster.gone(worker("prefill-0"))
    cluster.leave(seat)

    assert {"decode-0", "prefill-0"}.isdisjoint(cluster.nodes)
    assert where(decide(cluster))[:2] == ("prefill-1", "decode-1")
    cluster.ready_decodes.check_invariants()
    cluster.ready_prefills.check_invariants()


def test_removing_an_earlier_life_does_not_touch_the_later_one() -> None:
    cluster = cluster_of(worker("decode-0", epoch=2))

    cluster.gone(worker("decode-0", epoch=1))

    assert cluster.nodes[WorkerId("decode-0")].is_ready


def test_if_all_workers_of_a_role_are_gone_turns_are_refused() -> None:
    cluster = cluster_of()
    for number in range(3):
        cluster.gone(worker(f"decode-{number}"))

    with pytest.raises(Unavailable, match="no decode worker is ready"):
        decide(cluster)
