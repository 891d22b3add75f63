"""Measurements become rows, and rows become tables."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.harness.ceilings import Machine, ModelCost
from benchmarks.harness.environment import Environment
from benchmarks.harness.samples import Answered
from benchmarks.serving.result import Alone, Pair, Result, RouterCost, Together
from benchmarks.serving.show import headline, tables
from benchmarks.serving.workload import QUICK
from segue.api.turn import FinishReason, Timings, TurnEnd, Usage


def answered(*token_at: float, token_ids: tuple[int, ...] = (1, 2, 3)) -> Answered:
    end = TurnEnd(
        finish_reason=FinishReason.LENGTH,
        usage=Usage(shipped_bytes=1000),
        timings=Timings(prefill_s=0.5, transfer_s=0.2, exposed_transfer_s=0.05, router_s=0.001),
    )
    return Answered(asked_at=0.0, token_at=token_at, token_ids=token_ids, end=end)


OURS = answered(1.0, 2.0, 3.0)
PEER = answered(1.0, 3.0, 5.0)
PAIR = Pair(segue=[OURS], peer=[PEER])
ALONE = Alone.of([PAIR], prompt_tokens=32, expected_bytes=1000)
RESULT = Result(
    environment=Environment(
        commit="abc",
        date="2026-11-21",
        cpu="a CPU",
        cores=2,
        other_load=0.5,
        python="3.11",
        versions={},
    ),
    model="random",
    threads=2,
    config={},
    workload=QUICK,
    machine=Machine(sum_bytes_per_s=1e9, gemv_bytes_per_s=2e9, matmul_flops_per_s=1e12),
    cost=ModelCost(
        num_parameters=100_000_000,
        weight_bytes_per_token=400_000_000,
        flops_per_prompt_token=200_000_000,
        cache_bytes_per_token=1000,
        kv_bytes_per_position=100,
    ),
    ceiling_tokens_per_s=5.0,
    ceiling_share=0.2,
    peer_ceiling_share=0.1,
    equal_answers=1,
    num_answers=1,
    alone=(ALONE,),
    together=(Together.of([Pair(segue=[OURS, OURS], peer=[PEER, PEER])], turns=2),),
    router=RouterCost.of([(OURS, PEER)], dispatch_s=0.0002, relay_s=0.0001),
)


def test_the_hidden_share_is_the_part_of_the_transfer_that_was_not_exposed() -> None:
    assert ALONE.hidden_share == pytest.approx(0.75)
    assert ALONE.overlapped_s == pytest.approx(0.55)
    assert ALONE.sequential_s == pytest.approx(0.7)


def test_the_ratio_compares_answers_to_the_same_prompt() -> None:
    fast, slow = answered(1.0, 1.5, 2.0), answered(1.0, 3.0, 5.0)

    row = Alone.of(
        [Pair(segue=[fast], peer=[fast]), Pair(segue=[slow], peer=[slow])],
        prompt_tokens=1,
        expected_bytes=0,
    )

    assert row.decode_ratio == 1.0


def test_answers_with_different_tokens_are_not_equal() -> None:
    pair = Pair(segue=[OURS, answered(1.0, token_ids=(1,))], peer=[PEER, PEER])

    assert pair.num_equal == 1


def test_the_routers_cost_is_the_difference_of_neighbours() -> None:
    assert RESULT.router.added_first_token_s == 0.0
    assert RESULT.router.added_token_s == -1.0


def test_the_tables_show_every_part_and_fit_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=110)
    console.print(headline(RESULT))
    for table in tables(RESULT):
        console.print(table)

    text = console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above

    for expected in ("32", "2 together", "75%", "0.200", "381 MiB", "1 of 1 answers"):
        assert expected in text
