"""Which prefill and which decode worker take a turn: a pure function of what is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from segue.errors import Unavailable
from segue.types import Role, WorkerHealth, WorkerId, WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a turn runs."""

    prefill: WorkerStatus
    decode: WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """The workers that served a session last."""

    prefill: WorkerId
    decode: WorkerId


def place(
    workers: Sequence[WorkerStatus],
    turns_in_flight: Mapping[WorkerId, int],
    *,
    residence: Residence | None,
    sticky_imbalance: int,
    avoid: Collection[WorkerId] = (),
) -> Placement:
    """The session's own workers first, then the least loaded. Raises Unavailable.

    Load is what the router itself has in flight there or what the worker reported, whichever is
    greater: the first is exact but knows one router only, the second knows all but is late.
    """

    def load(worker: WorkerStatus) -> int:
        reported = worker.load.running_turns + worker.load.waiting_turns
        return max(turns_in_flight.get(worker.worker_id, 0), reported)

    def choose(role: Role, preferred: WorkerId | None) -> WorkerStatus:
        return _choose(_ready(workers, role, avoid), load, preferred, sticky_imbalance)

    return Placement(
        prefill=choose(Role.PREFILL, residence.prefill if residence else None),
        decode=choose(Role.DECODE, residence.decode if residence else None),
    )


def _ready(
    workers: Sequence[WorkerStatus], role: Role, avoid: Collection[WorkerId]
) -> list[WorkerStatus]:
    ready = [w for w in workers if w.role is role and w.health is WorkerHealth.READY]
    if not ready:
        raise Unavailable(f"no {role} worker is ready; see `segue status`, then try again")
    # A worker that just failed this turn is used again only when there is no other.
    return [w for w in ready if w.worker_id not in avoid] or ready


def _choose(
    candidates: Sequence[WorkerStatus],
    load: Callable[[WorkerStatus], int],
    preferred: WorkerId | None,
    sticky_imbalance: int,
) -> WorkerStatus:
    # Equal loads go to the worker with more free pages, then by name, so that the choice is stable.
    least = min(candidates, key=lambda w: (load(w), -w.load.pages.free, w.worker_id))
    for worker in candidates:
        if worker.worker_id == preferred and load(worker) - load(least) < sticky_imbalance:
            return worker
    return least
