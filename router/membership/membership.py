"""The table of workers in the cluster. Heartbeats update it; each change sends all workers a view.

There is one entry per worker id. A later epoch replaces an earlier one. From then on messages from
the earlier one are refused, even after the later one has left or was forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from cachetools import LRUCache

from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import LayoutMismatch, StaleEpoch
from segue.api.types import Epoch, WorkerId
from segue.model.checkpoint.model_id import folder_id
from segue.process.telemetry import Clock

logger = logging.getLogger(__name__)

# Most remembered epochs of workers that are gone, to refuse earlier ones. There are few worker ids.
_MAX_PAST = 10_000
MAX_ROUTERS = 100


@dataclass(frozen=True, slots=True)
class _Member:
    status: WorkerStatus
    seen_at: float
    lost_at: float | None = None
    num_routers: int = 1
    """The routers that it has joined."""


@dataclass(kw_only=True, eq=False)
class Membership:
    """One event loop owns it."""

    model_id: str
    """If empty, becomes that of the first worker: all must serve the same model."""
    heartbeat_timeout_s: float
    forget_lost_s: float
    clock: Clock
    on_status: Callable[[WorkerStatus], None]
    """Receives a worker's status with each heartbeat, and when the worker is lost."""
    on_gone: Callable[[WorkerStatus], None]
    """Receives the last status of a worker that left or was forgotten."""

    def __post_init__(self) -> None:
        self._members: dict[WorkerId, _Member] = {}
        self._past: LRUCache[WorkerId, Epoch] = LRUCache(_MAX_PAST)
        self._changed = asyncio.Event()
        self._looked_at: float | None = None

    def heartbeat(self, status: WorkerStatus, model_id: str, num_routers: int = 1) -> None:
        """Takes a worker's status. Raises LayoutMismatch for another model, StaleEpoch for an
        earlier epoch.
        """
        if self.model_id in ("", folder_id(model_id)):
            # The first worker reports how the folder's weights are quantised.
            self.model_id = model_id
        if model_id != self.model_id:
            raise LayoutMismatch(
                f"{status.worker_id} serves model {model_id}, this router serves {self.model_id}; "
                "start both on the same checkpoint, with the same [engine] quantization and "
                "quantize_activations"
            )
        known, latest = self._members.get(status.worker_id), self.last_epoch(status.worker_id)
        if status.epoch < latest:
            raise StaleEpoch(
                f"{status.worker_id} was replaced: expected epoch {latest} or later, "
                f"got {status.epoch}"
            )
        number = min(max(num_routers, 1), MAX_ROUTERS)
        self._members[status.worker_id] = _Member(status, self.clock(), num_routers=number)
        if known is None or known.status.epoch != status.epoch or known.lost_at is not None:
            logger.info("worker joined", extra={"worker": status.worker_id, "at": status.address})
        if status.health is WorkerHealth.STUCK:
            logger.error("worker stuck", extra={"worker": status.worker_id})
        self.on_status(status)
        if known is None or _identity(known.status) != _identity(status):
            self._announce()

    def drains(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """The worker drains: it gets no more turns, even before its next heartbeat reports that."""
        known = self._members.get(worker_id)
        if known and known.status.epoch == epoch and known.status.health is WorkerHealth.READY:
            status = replace(known.status, health=WorkerHealth.DRAINING)
            self._members[worker_id] = replace(known, status=status)
            self.on_status(status)
            self._announce()

    def left(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """The worker has finished its turns and stops. Ignored for an epoch that was replaced."""
        known = self._members.get(worker_id)
        if known and known.status.epoch == epoch:
            logger.info("worker left", extra={"worker": worker_id})
            self._forget(known.status)

    def lost(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """The worker's stream broke. Ignored for an epoch that was replaced."""
        known = self._members.get(worker_id)
        if known and known.status.epoch == epoch and known.lost_at is None:
            logger.warning("worker lost", extra={"worker": worker_id})
            status = known.status.as_lost()
            self._members[worker_id] = replace(known, status=status, lost_at=self.clock())
            self.on_status(status)
            self._announce()

    def notice_silence(self) -> None:
        """Marks silent workers as lost, and forgets those that have been lost for a long time.

        Call it often: a host without power sends nothing. If this process itself was stopped for
        long, heartbeats are still waiting to be read, so the workers' silence counts from now on.
        """
        now = self.clock()
        before, self._looked_at = self._looked_at, now
        if before is not None and now - before > self.heartbeat_timeout_s / 2:
            for name, member in self._members.items():
                self._members[name] = replace(member, seen_at=now)
        for member in list(self._members.values()):
            if member.lost_at is None:
                if member.seen_at < now - self.heartbeat_timeout_s:
                    self.lost(member.status.worker_id, member.status.epoch)
            elif member.lost_at <= now - self.forget_lost_s:
                logger.warning("lost worker forgotten", extra={"worker": member.status.worker_id})
                self._forget(member.status)

    @property
    def num_routers(self) -> int:
        """Routers that serve the cluster now, including this one, as its workers report."""
        seen = (member.num_routers for member in self._members.values() if member.lost_at is None)
        return max(seen, default=1)

    def last_epoch(self, worker_id: WorkerId) -> int:
        """The worker's last epoch that this router has seen; 0 if none."""
        known = self._members.get(worker_id)
        return known.status.epoch if known else self._past.get(worker_id, 0)

    def find(self, worker_id: WorkerId) -> WorkerStatus | None:
        known = self._members.get(worker_id)
        return known.status if known else None

    def workers(self) -> list[WorkerStatus]:
        """All members and recently lost workers, by id."""
        return [member.status for _, member in sorted(self._members.items())]

    async def views(self) -> AsyncIterator[list[WorkerStatus]]:
        """Yields the members now, and again after each change."""
        while True:
            changed = self._changed
            yield self.workers()
            await changed.wait()

    def _forget(self, status: WorkerStatus) -> None:
        del self._members[status.worker_id]
        self._past[status.worker_id] = status.epoch
        self.on_gone(status)
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _identity(status: WorkerStatus) -> tuple[Epoch, str, WorkerHealth]:
    return status.epoch, status.address, status.health
