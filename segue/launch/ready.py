"""Waits until a router answers and all of its workers have joined."""

from __future__ import annotations

import time
from collections.abc import Callable

from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import SegueError, Unavailable
from segue.process.telemetry import Clock

_LOOK_EVERY_S = 0.1


def wait_until_ready(
    status: Callable[[], ClusterStatus],
    *,
    num_workers: int,
    timeout_s: float,
    clock: Clock,
) -> None:
    """Raises Unavailable, naming what is missing. `status` may raise SegueErrors meanwhile."""
    deadline_at = clock() + timeout_s
    while missing := _missing(status, num_workers):
        if clock() > deadline_at:
            raise Unavailable(f"the cluster did not become ready: {missing}")
        time.sleep(_LOOK_EVERY_S)


def _missing(status: Callable[[], ClusterStatus], num_workers: int) -> str:
    try:
        return missing_of(status(), num_workers)
    except SegueError as error:
        return str(error)


def missing_of(status: ClusterStatus, num_workers: int) -> str:
    """Empty if turns can be served and all workers are there."""
    ready = [worker for worker in status.workers if worker.health is WorkerHealth.READY]
    if status.ready and len(ready) >= num_workers:
        return ""
    others = [f"{w.worker_id} is {w.health}" for w in status.workers if w not in ready]
    return ", ".join([f"{len(ready)} of {num_workers} workers are ready", *others])
