"""The gateway's benchmark: both clients count the tokens that the workers sent."""

from __future__ import annotations

import pytest

from benchmarks.gateway.__main__ import table
from benchmarks.gateway.measure import measure
from segue.demo import checkpoint_dir


@pytest.mark.slow
async def test_both_clients_measure_every_token() -> None:
    cells = await measure(
        str(checkpoint_dir()), 0.002, streams=[1, 4], num_answers=2, num_tokens=16
    )

    assert [(cell.client, cell.num_tokens) for cell in cells] == [
        *(("gRPC", 32), ("HTTP", 32)),
        *(("gRPC", 128), ("HTTP", 128)),
    ]
    for cell in cells:
        assert 0 < cell.token_s.p50 <= cell.token_s.p99 < 5
        assert cell.first_token_s.p50 > 0
        assert (cell.gateway_cpu_s > 0) == (cell.client == "HTTP")
    assert len(table(cells).splitlines()) == 2 + len(cells)
