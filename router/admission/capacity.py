"""How many turns the workers can have."""

from __future__ import annotations

from collections.abc import Iterable

from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.types import Role

# Turns beyond those that run, so that a worker whose turn ends does not wait for its next one: a
# quarter, and on small workers these for each.
_SPARE_EACH = 2


def capacity_of(workers: Iterable[WorkerStatus]) -> int | None:
    """None if it is not known: no decode worker is ready, or one does not report how many turns it
    runs. A turn is on a decode worker from its reservation to its end, so these are what counts.
    """
    ready = [
        worker.load.max_turns
        for worker in workers
        if worker.role is Role.DECODE and worker.health is WorkerHealth.READY
    ]
    if not ready or not all(ready):
        return None
    return sum(ready) + max(sum(ready) // 4, _SPARE_EACH * len(ready))
