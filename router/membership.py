"""Who is in the cluster: heartbeats in, one table, a view for everybody when it changes.

A worker is one entry per id. A later life (greater epoch) replaces an earlier one; the earlier
one's messages are refused from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from segue.cluster_status import WorkerHealth, WorkerStatus
from segue.errors import LayoutMismatch, StaleEpoch
from segue.telemetry import Clock
from segue.types import Epoch, WorkerId


@dataclass(frozen=True, slots=True)
class _Member:
    status: WorkerStatus
    heard_at: float


class Membership:
    """One event loop owns it."""

    def __init__(
        self,
        *,
        model_id: str,
        heartbeat_timeout_s: float,
        clock: Clock,
        heard: Callable[[WorkerStatus], None],
    ) -> None:
        """An empty `model_id` becomes that of the first worker: all must serve the same.

        `heard` is told every worker's status when it comes, and when the worker is lost.
        """
        self._heard = heard
        self.model_id = model_id
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._clock = clock
        self._members: dict[WorkerId, _Member] = {}
        self._changed = asyncio.Event()

    def heartbeat(self, status: WorkerStatus, model_id: str) -> None:
        """Takes a worker's news. Raises LayoutMismatch for another model, StaleEpoch for a past
        life.
        """
        self.model_id = self.model_id or model_id
        if model_id != self.model_id:
            raise LayoutMismatch(
                f"{status.worker_id} serves model {model_id}, this router {self.model_id}; "
                "start both on the same checkpoint"
            )
        known = self._members.get(status.worker_id)
        if known and status.epoch < known.status.epoch:
            raise StaleEpoch(
                f"{status.worker_id} was replaced: epoch {known.status.epoch} is here, "
                f"{status.epoch} is past"
            )
        self._members[status.worker_id] = _Member(status, self._clock())
        self._heard(status)
        if known is None or _identity(known.status) != _identity(status):
            self._announce()

    def lost(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """The worker's stream broke. A later life that joined meanwhile is not touched."""
        known = self._members.get(worker_id)
        if known and known.status.epoch == epoch:
            status = replace(known.status, health=WorkerHealth.LOST)
            self._members[worker_id] = _Member(status, known.heard_at)
            self._heard(status)
            self._announce()

    def notice_silence(self) -> None:
        """Marks the silent as lost. To be called often: a host without power says nothing."""
        horizon = self._clock() - self._heartbeat_timeout_s
        for member in list(self._members.values()):
            if member.heard_at < horizon and member.status.health is not WorkerHealth.LOST:
                self.lost(member.status.worker_id, member.status.epoch)

    def workers(self) -> list[WorkerStatus]:
        """Everybody ever seen, by id."""
        return [member.status for _, member in sorted(self._members.items())]

    def epochs(self) -> Mapping[WorkerId, Epoch]:
        return {worker_id: member.status.epoch for worker_id, member in self._members.items()}

    async def views(self) -> AsyncIterator[list[WorkerStatus]]:
        """The members now, and again after each change of who is here."""
        while True:
            changed = self._changed
            yield self.workers()
            await changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _identity(status: WorkerStatus) -> tuple[Epoch, str, WorkerHealth]:
    return status.epoch, status.address, status.health
