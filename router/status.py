"""The cluster as `segue status` and Prometheus see it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from router.admission.admission import Admission
from router.membership.membership import Membership
from router.metrics import RouterMetrics
from router.orders import LauncherDesk
from router.placement.cluster import pressure_of
from router.placement.placing import Placing
from router.sessions.table import SessionTable
from router.turn.links import Links
from segue.api.cluster.status import ClusterStatus, RouterStatus, WorkerHealth, WorkerStatus
from segue.api.errors import SegueError
from segue.api.types import Role

_FINISHED = ("stop", "length")
_CANCELLED = ("cancelled", "disconnected", "deadline")
_NOT_FAILED = (*_FINISHED, *_CANCELLED)


@dataclass(slots=True)
class StatusDesk:
    """One event loop owns it."""

    model_name: str
    membership: Membership
    links: Links
    admission: Admission
    table: SessionTable
    metrics: RouterMetrics
    placing: Placing
    launcher: LauncherDesk
    serves_since: float = field(default_factory=time.monotonic)

    async def cluster(self, address: str, metrics_address: str) -> ClusterStatus:
        """Asks every worker. Shows the last report of lost workers."""
        workers = await asyncio.gather(*(self._ask(w) for w in self.membership.workers()))
        return ClusterStatus(
            ready=self.is_ready(workers),
            model=self.model_name,
            model_id=self.membership.model_id,
            workers=tuple(workers),
            router=self._router(address, metrics_address),
            fleet=self.launcher.fleet,
        )

    def is_ready(self, workers: Iterable[WorkerStatus]) -> bool:
        """Whether turns are admitted and can be placed, which needs a ready worker of each role."""
        roles = {worker.role for worker in workers if worker.health is WorkerHealth.READY}
        return roles == set(Role) and not self.admission.is_draining

    def observe(self) -> None:
        """Sets the gauges, which show states and not events."""
        load = self.metrics.load
        load.turns_in_flight.set(self.admission.num_turns)
        load.sessions.set(len(self.table))
        load.history_bytes.set(self.table.history_bytes)
        load.waiting_turns.set(len(self.admission.waiting))
        load.waiting_bytes.set(self.admission.waiting.size_bytes)
        if self.metrics.vllm is not None:
            decodes = (w for w in self.membership.workers() if w.role is Role.DECODE)
            self.metrics.vllm.set_pages(worker.load.pages for worker in decodes)
        counts = Counter((w.role.value, w.health.value) for w in self.membership.workers())
        for role in Role:
            for health in WorkerHealth:
                count = counts[role.value, health.value]
                load.workers.labels(role.value, health.value).set(count)

    def _router(self, address: str, metrics_address: str) -> RouterStatus:
        load = self.metrics.load
        ended = load.ended
        return RouterStatus(
            address=address,
            metrics_address=metrics_address,
            sessions=len(self.table),
            running_turns=self.admission.num_turns,
            waiting_turns=len(self.admission.waiting),
            finished_turns=sum(ended[how] for how in _FINISHED),
            failed_turns=ended.total() - sum(ended[how] for how in _NOT_FAILED),
            cancelled_turns=sum(ended[how] for how in _CANCELLED),
            completion_tokens_per_s=load.rate.per_second(),
            draining=self.admission.is_draining,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self.serves_since,
            drafted_tokens=load.drafted_tokens,
            accepted_tokens=load.accepted_tokens,
            **asdict(pressure_of(self.placing.cluster)),
        )

    async def _ask(self, worker: WorkerStatus) -> WorkerStatus:
        if worker.health is WorkerHealth.LOST:
            return worker
        try:
            asked = await self.links.to(worker).status()
        except SegueError:
            return worker.as_lost()
        if worker.health is WorkerHealth.WARMING and asked.health is WorkerHealth.READY:
            # It gets turns once a heartbeat reports that it is ready.
            return replace(asked, health=worker.health)
        return asked


def targets_of(router: str, workers: Iterable[WorkerStatus], *, has_tls: bool) -> bytes:
    """The answer of `/targets`, in the format of Prometheus' HTTP discovery: the metrics addresses
    of this router and of all workers that it knows. They include lost workers, whose failed scrapes
    show them as down.
    """
    scheme = {"__scheme__": "https"} if has_tls else {}
    groups = [
        {"targets": [address], "labels": {"role": role, "process": process, **scheme}}
        for role, process, address in (
            ("router", router, router),
            *((w.role.value, w.worker_id, w.metrics_address) for w in workers),
        )
        if address
    ]
    return json.dumps(groups).encode()
