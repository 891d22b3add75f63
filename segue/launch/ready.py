"""Waits until a router answers and all of its workers have joined."""

from __future__ import annotations

import asyncio

from segue.api.cluster_status import ClusterStatus, WorkerHealth
from segue.api.errors import SegueError, Unavailable
from segue.process.telemetry import Clock
from segue.sdk.client import Client

_LOOK_EVERY_S = 0.1


def wait_until_ready(target: str, *, num_workers: int, timeout_s: float, clock: Clock) -> None:
    """Raises Unavailable, naming what is missing."""
    asyncio.run(_wait(target, num_workers, clock() + timeout_s, clock))


async def _wait(target: str, num_workers: int, deadline_at: float, clock: Clock) -> None:
    async with Client(target) as client:
        while True:
            missing = await _missing(client, num_workers)
            if not missing:
                return
            if clock() > deadline_at:
                raise Unavailable(f"the cluster at {target} did not become ready: {missing}")
            await asyncio.sleep(_LOOK_EVERY_S)


async def _missing(client: Client, num_workers: int) -> str:
    try:
        status = await client.status()
    except SegueError as error:
        return str(error)
    return missing_of(status, num_workers)


def missing_of(status: ClusterStatus, num_workers: int) -> str:
    """Empty if turns can be served and all workers are there."""
    ready = [worker for worker in status.workers if worker.health is WorkerHealth.READY]
    if status.ready and len(ready) >= num_workers:
        return ""
    others = [f"{w.worker_id} is {w.health}" for w in status.workers if w not in ready]
    return ", ".join([f"{len(ready)} of {num_workers} workers are ready", *others])
