"""An idle worker recounts its memory, and exits if it does not add up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from segue.api.types import StopConditions, TokenInput
from segue.cache.unit_pool import AccountingError, UnitState
from segue.worker.process.serving import audit_when_idle
from tests.cluster.conftest import local_cluster
from tests.cluster.waiting import wait_until_idle


async def test_an_idle_worker_recounts_its_memory(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        await cluster.client.generate(
            TokenInput(tuple(range(20, 90))), stop=StopConditions(max_tokens=3)
        )
        await wait_until_idle(cluster.client)
        (worker,) = cluster.decode
        audit = asyncio.ensure_future(audit_when_idle(worker, period_s=0.01))
        _, unfinished = await asyncio.wait({audit}, timeout=0.2)
        assert unfinished, "a correct worker keeps running"

        # A page of the tree that was also given to another owner.
        page = next(worker._memory.cache.tree.nodes()).page
        worker._memory.pages.move([page], UnitState.CACHED, UnitState.WORKING)
        with pytest.raises(AccountingError, match="in the tree, but not cached"):
            await asyncio.wait_for(audit, timeout=5)

        worker._memory.pages.move([page], UnitState.WORKING, UnitState.CACHED)
