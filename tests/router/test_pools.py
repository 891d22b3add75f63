"""The longest answer allowed, given the request, the context and the workers' memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.placement.pools import LargestPools, Pools, answer_tokens
from segue.api.cluster.status import WorkerHealth
from segue.api.errors import ContextOverflow, InvalidRequest
from segue.api.types import Epoch
from tests.router.small_cluster import worker

# 307 pages of 16 tokens.
SMALL = Pools(prefill=4912, decode=4912)


def of(num_prompt: int, asked: int | None, pools: Pools, context: int = 8192) -> int:
    return answer_tokens(num_prompt, asked, max_context=context, pools=pools)


def test_a_request_that_fits_is_granted() -> None:
    assert of(15, 100, SMALL) == 100


def test_a_request_beyond_the_context_is_cut_to_the_context() -> None:
    assert of(15, 100_000, Pools()) == 8192 - 15


def test_a_request_beyond_the_largest_pool_is_cut_to_the_pool() -> None:
    assert of(15, 8000, SMALL) == 4912 - 15


def test_an_open_answer_may_fill_the_context_if_memory_is_plenty() -> None:
    assert of(15, None, Pools(decode=262_144)) == 8192 - 15


def test_an_open_answer_takes_only_a_share_of_the_pool() -> None:
    pools = Pools(decode=400_000)

    assert of(15, None, pools, context=262_144) == 50_000
    assert of(390_000, None, pools, context=1_000_000) == 10_000


def test_an_open_answer_has_at_least_a_thousand_tokens_if_they_fit() -> None:
    assert of(15, None, SMALL) == 1024
    assert of(4000, None, SMALL) == 912
    assert of(15, None, Pools(decode=320)) == 305


def test_before_the_first_heartbeat_the_context_is_the_only_limit() -> None:
    assert of(15, None, Pools()) == 8192 - 15


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        (Pools(prefill=99, decode=500), "largest prefill worker here holds 99 tokens"),
        (Pools(prefill=500, decode=100), "largest decode worker here holds 100 tokens"),
    ],
)
def test_a_prompt_that_no_worker_can_hold_is_refused_with_its_numbers(
    pools: Pools, message: str
) -> None:
    with pytest.raises(ContextOverflow, match=f"too long: 100 tokens > .*{message}") as refused:
        of(100, 5, pools)

    assert isinstance(refused.value, InvalidRequest)
    assert "cache_bytes" in str(refused.value)


def test_the_largest_pools_follow_the_workers_reports() -> None:
    pools = LargestPools()
    assert pools.now == Pools()

    pools.update_worker(worker("decode-0", total=307))
    pools.update_worker(worker("decode-1", total=100))
    pools.update_worker(worker("prefill-0", total=50))
    assert pools.now == Pools(prefill=800, decode=4912)

    pools.update_worker(worker("decode-0", total=307, health=WorkerHealth.LOST))
    assert pools.now == Pools(prefill=800, decode=1600)

    grown = worker("decode-1", total=200)
    pools.update_worker(replace(grown, epoch=Epoch(2)))
    assert pools.now == Pools(prefill=800, decode=3200)


@pytest.mark.parametrize("health", [WorkerHealth.LOST, WorkerHealth.DRAINING])
def test_workers_that_accept_no_turns_do_not_count(health: WorkerHealth) -> None:
    pools = LargestPools()

    pools.update_worker(worker("decode-0", health=health))

    assert pools.now == Pools()
