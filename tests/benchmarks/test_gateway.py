"""The gateway's benchmark: both clients count the tokens that the workers sent."""

from __future__ import annotations

import pytest

from benchmarks.gateway.__main__ import cost, spread, table
from benchmarks.gateway.measure import AT_ONCE, SPREAD, Cell, Plan, measure, pauses_s
from benchmarks.harness.samples import Percentiles
from segue.demo import checkpoint_dir


@pytest.mark.slow
@pytest.mark.parametrize("gateways", [1, 2])
async def test_both_clients_measure_every_token(gateways: int) -> None:
    plan = Plan(streams=[1, 4], num_answers=2, num_tokens=16, arrivals=SPREAD)
    cells = await measure(str(checkpoint_dir()), 0.002, [plan], gateways=gateways)

    assert [(cell.client, cell.num_tokens) for cell in cells] == [
        *(("gRPC", 32), ("HTTP", 32)),
        *(("gRPC", 128), ("HTTP", 128)),
    ]
    for cell in cells:
        assert 0 < cell.token_s.p50 <= cell.token_s.p99 < 5
        assert cell.first_token_s.p50 > 0
        assert 0 < cell.num_events <= cell.num_tokens
        workers = {"prefill-0", "decode-0"}
        assert cell.cpu_s.keys() == {"client", "router", *workers, "gateway", "machine"}
        assert cell.cpu_s["gateway"] > 0 or cell.client == "gRPC"
        assert 0 < cell.busy <= 1.1
    assert len(table(cells).splitlines()) == 2 + len(cells)


def test_requests_that_are_spread_come_at_the_same_times_to_both_clients() -> None:
    plan = Plan(streams=[64], num_answers=5, num_tokens=128, arrivals=SPREAD, seed=3)
    pauses = pauses_s(plan, 64, 0.02)

    assert pauses == pauses_s(plan, 64, 0.02)
    firsts = sorted(first for first, *_ in pauses)
    assert 0 <= firsts[0] < 0.2
    assert 2.3 < firsts[-1] <= 2.56
    later = [pause for _, *some in pauses for pause in some]
    assert 0.8 < sum(later) / len(later) / (2.56 / 5) < 1.2


def test_requests_at_once_wait_for_nothing() -> None:
    plan = Plan(streams=[2], num_answers=3, num_tokens=128, arrivals=AT_ONCE)
    assert pauses_s(plan, 2, 0.02) == [[0.0] * 3] * 2


def test_an_events_cost_is_the_extra_cost_of_longer_answers() -> None:
    short = _cell(num_turns=10, num_events=10, cpu_s=0.02)
    long = _cell(num_turns=10, num_events=110, cpu_s=0.025)

    assert cost(short, long).splitlines()[2:] == [
        "| a request and its first event | 2,000 | 2,000 | 2,000 |",
        "| a further event | 50 | 50 | 50 |",
    ]


def _cell(*, num_turns: int, num_events: int, cpu_s: float) -> Cell:
    return Cell(
        client="HTTP",
        arrivals=AT_ONCE,
        step_s=0.02,
        streams=1,
        num_turns=num_turns,
        num_tokens=num_events,
        num_events=num_events,
        seconds=1.0,
        first_token_s=Percentiles.of([0.0]),
        token_s=Percentiles.of([0.0]),
        cpu_s=dict.fromkeys(("client", "router", "gateway"), cpu_s),
    )


def test_few_streams_have_enough_turns() -> None:
    few, many = (spread(number, 5, 128, seed=3) for number in (1, 64))
    assert (few.num_answers, few.num_tokens, few.seed) == (64, 10, 3)
    assert (many.num_answers, many.num_tokens) == (5, 128)
