"""The gateway's benchmark: both clients count the tokens that the workers sent."""

from __future__ import annotations

import pytest

from benchmarks.gateway.__main__ import cost, table
from benchmarks.gateway.measure import Cell, Plan, Quantiles, measure
from segue.demo import checkpoint_dir


@pytest.mark.slow
async def test_both_clients_measure_every_token() -> None:
    plan = Plan(streams=[1, 4], num_answers=2, num_tokens=16)
    cells = await measure(str(checkpoint_dir()), 0.002, [plan])

    assert [(cell.client, cell.num_tokens) for cell in cells] == [
        *(("gRPC", 32), ("HTTP", 32)),
        *(("gRPC", 128), ("HTTP", 128)),
    ]
    for cell in cells:
        assert 0 < cell.token_s.p50 <= cell.token_s.p99 < 5
        assert cell.first_token_s.p50 > 0
        assert 0 < cell.num_events <= cell.num_tokens
        assert cell.cpu_s.keys() == {"client", "router", "prefill-0", "decode-0", "gateway"}
        assert (cell.cpu_s["gateway"] > 0) == (cell.client == "HTTP")
    assert len(table(cells).splitlines()) == 2 + len(cells)


def test_an_events_cost_is_what_longer_answers_cost_more() -> None:
    short = _cell(num_turns=10, num_events=10, cpu_s=0.02)
    long = _cell(num_turns=10, num_events=110, cpu_s=0.025)

    assert cost(short, long).splitlines()[2:] == [
        "| a request and its first event | 2,000 | 2,000 | 2,000 |",
        "| a further event | 50 | 50 | 50 |",
    ]


def _cell(*, num_turns: int, num_events: int, cpu_s: float) -> Cell:
    return Cell(
        client="HTTP",
        step_s=0.02,
        streams=1,
        num_turns=num_turns,
        num_tokens=num_events,
        num_events=num_events,
        seconds=1.0,
        first_token_s=Quantiles(0.0, 0.0),
        token_s=Quantiles(0.0, 0.0),
        cpu_s=dict.fromkeys(("client", "router", "gateway"), cpu_s),
    )
