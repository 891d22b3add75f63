"""What a placed turn counts for in the placement of others."""

from __future__ import annotations

from segue.types import WorkerId
from tests.router.small_cluster import cluster_of, decide, where, worker


def test_a_seat_counts_until_it_is_left_and_only_once() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    assert where(decide(cluster))[:2] == ("prefill-1", "decode-1")

    cluster.prefilled(seat)
    assert where(decide(cluster))[:2] == ("prefill-0", "decode-1")
    cluster.leave(seat)
    cluster.leave(seat)

    assert where(decide(cluster))[:2] == ("prefill-0", "decode-0")


def test_a_report_that_holds_our_own_turns_does_not_count_them_twice() -> None:
    cluster = cluster_of()
    cluster.take(decide(cluster))
    cluster.heard(worker("prefill-0", queued=50_000, running=1))
    cluster.heard(worker("decode-0", running=3))

    node = cluster.nodes[WorkerId("prefill-0")]
    assert (node.own_tokens, node.other_tokens) == (50_000, 0)
    assert cluster.nodes[WorkerId("decode-0")].running_turns == 3


def test_a_workers_later_life_owes_nothing_to_the_earlier_ones_turns() -> None:
    cluster = cluster_of()
    seat = cluster.take(decide(cluster))
    cluster.heard(worker("prefill-0", epoch=2))
    again = cluster.take(decide(cluster))

    cluster.leave(seat)

    assert again.prefill.worker_id == "prefill-0"
    assert cluster.nodes[WorkerId("prefill-0")].own_tokens == 50_000


def test_what_was_placed_since_the_last_heartbeat_takes_memory() -> None:
    cluster = cluster_of(worker("decode-0", free=800), worker("decode-1", free=9_000, running=1))
    cluster.heard(worker("decode-2", free=9_000, running=1))

    seat = cluster.take(decide(cluster))
    assert seat.decode.worker_id == "decode-0"
    cluster.heard(worker("decode-1", running=1))
    assert decide(cluster).chosen.decode != "decode-0"
    cluster.leave(seat)
    assert decide(cluster).chosen.decode == "decode-0"
