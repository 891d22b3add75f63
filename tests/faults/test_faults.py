"""The matrix, and as a short form a few of its cells. `-m slow` runs all of the workers'."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.matrix import Cell, Fault, Moment, Target, cells, why_left_out
from tests.faults.run import Runner
from tests.faults.table import line_of

SHORT = [
    Cell(Target.DECODE, Fault.KILL, Moment.STREAMING),
    Cell(Target.PREFILL, Fault.CHECKSUM, Moment.SHIPPING),
    Cell(Target.HANDOFF, Fault.RESET, Moment.SHIPPING),
]
WORKERS = (Target.PREFILL, Target.DECODE, Target.HANDOFF)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner() -> AsyncIterator[Runner]:
    runner = Runner(has_gateways=False)
    yield runner
    await runner.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("cell", SHORT, ids=str)
async def test_the_clients_do_not_notice(cell: Cell, runner: Runner) -> None:
    result = await runner.run(cell, seed=1)

    assert result.is_good, line_of(result)


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "cell",
    [c for c in cells() if c.target in WORKERS and not why_left_out(c) and c not in SHORT],
    ids=str,
)
async def test_no_cell_of_the_workers_fails(cell: Cell, runner: Runner) -> None:
    result = await runner.run(cell, seed=1)

    assert result.is_good, line_of(result)


def test_every_target_has_cells_and_every_other_cell_a_reason() -> None:
    run = [cell for cell in cells() if not why_left_out(cell)]

    assert {cell.target for cell in run} == set(Target)
    assert {cell.fault for cell in run} == set(Fault)
    assert {cell.moment for cell in run} == set(Moment)
