"""Waits until a cluster is idle, up to a time limit."""

from __future__ import annotations

import asyncio

from segue.api.cluster.status import ClusterStatus, UnitCounts, WorkerHealth
from segue.sdk.client import Client


async def wait_until_ready(client: Client, num_workers: int) -> None:
    async with asyncio.timeout(20):
        while True:
            status = await client.status()
            ready = [w for w in status.workers if w.health is WorkerHealth.READY]
            if status.ready and len(ready) >= num_workers:
                return
            await asyncio.sleep(0.01)


async def wait_until_idle(client: Client, timeout_s: float = 20.0) -> ClusterStatus:
    """The cluster's status once nothing runs and nothing is held, or the last one before the time
    limit.
    """
    status = await client.status()
    with_deadline = asyncio.get_running_loop().time() + timeout_s
    while not is_idle(status) and asyncio.get_running_loop().time() < with_deadline:
        await asyncio.sleep(0.01)
        status = await client.status()
    return status


def is_idle(status: ClusterStatus) -> bool:
    return status.router.running_turns == 0 and all(
        all_free(worker.load.pages) and all_free(worker.load.slots) for worker in status.workers
    )


def all_free(counts: UnitCounts) -> bool:
    """Whether every unit is free or cached, the sums equal the total, and none has leaked."""
    in_use = counts.working + counts.reserved + counts.quarantined + counts.stray
    return in_use == 0 and counts.free + counts.cached == counts.total > 0
