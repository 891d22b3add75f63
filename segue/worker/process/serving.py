"""The common parts of the two worker processes: serving, joining, leaving."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry

from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import Unavailable
from segue.api.types import WorkerId
from segue.cache.inventory import Inventory
from segue.cache.memory import Strays
from segue.wire.membership_calls import move_sessions
from segue.wire.server import RunningServer, Services, metrics_endpoint, serving
from segue.worker.drain import Deadline, MoveSessions, WorkerDrain
from segue.worker.membership.identity import Identity
from segue.worker.membership.joining import stay_joined_to
from segue.worker.process.options import WorkerOptions
from segue.worker.watchdog import Watchdog, end_when_stuck

logger = logging.getLogger(__name__)

# Recounting takes about 0.1 s of the event loop for 100,000 pages.
_AUDIT_PERIOD_S = 30.0
_LEAVE_TIMEOUT_S = 2.0
_HEARTBEAT_S = 0.5


@dataclass(slots=True, kw_only=True)
class Presence:
    """A worker's identity and state for others. `health` changes when it drains or is stuck."""

    identity: Identity
    address: str
    metrics_address: str
    health: WorkerHealth = WorkerHealth.READY
    draining: WorkerDrain | None = None
    """Set once the worker serves."""
    operators: Callable[[], str] = str
    """See `WorkerStatus`, also for the next two."""
    cores: str = ""
    num_threads: int = 0
    serves_since: float = field(default_factory=time.monotonic)

    def status(self, load: WorkerLoad) -> WorkerStatus:
        return WorkerStatus(
            worker_id=self.identity.worker_id,
            role=self.identity.role,
            epoch=self.identity.epoch,
            address=self.address,
            metrics_address=self.metrics_address,
            health=self.health,
            load=load,
            pid=os.getpid(),
            host=socket.gethostname(),
            drain_left_s=self.draining.left_s if self.draining else 0.0,
            uptime_s=time.monotonic() - self.serves_since,
            operators=self.operators(),
            cores=self.cores,
            num_threads=self.num_threads,
        )

    async def drain(self, timeout_s: float | None, *, move_sessions: bool) -> DrainReport:
        """Takes the worker out of service. See `WorkerDrain.ask`."""
        if self.draining is None:
            raise Unavailable(f"{self.identity.worker_id} starts; drain it once it serves")
        return await self.draining.ask(timeout_s, move_sessions=move_sessions)


class Worker(Protocol):
    """The interface of a worker to its process."""

    name: WorkerId
    presence: Presence
    model_id: str
    inventory: Inventory
    watchdog: Watchdog

    def services(self) -> Services: ...
    async def warm_up(self) -> None: ...
    def status(self) -> WorkerStatus: ...
    def members_changed(self, workers: Sequence[WorkerStatus]) -> None: ...
    def strays(self) -> Strays: ...
    def check_invariants(self) -> None: ...
    async def drain(self, until: Deadline, move: MoveSessions | None) -> DrainReport: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RunningWorker:
    worker: Worker
    address: str
    draining: WorkerDrain


@contextlib.asynccontextmanager
async def serving_worker(
    identity: Identity,
    registry: CollectorRegistry,
    worker_as: Callable[[Presence], Worker],
    *,
    options: WorkerOptions,
    drain_s: float,
) -> AsyncIterator[RunningWorker]:
    """Serves the worker that `worker_as(presence)` makes, and keeps it joined to its routers. Until
    its `warm_up()` has returned it is WARMING, and gets no turns.

    When the block ends the worker drains, unless it has done so, leaves and closes. It moves no
    session then: a block that ends without a drain means that the whole cluster stops.
    """
    made: list[Worker] = []

    def services_at(address: str) -> Services:
        presence = Presence(identity=identity, address=address, metrics_address=endpoint.address)
        made.append(worker_as(presence))
        return made[0].services()

    hosts = options.hosts
    security = options.security
    with contextlib.closing(
        metrics_endpoint(registry, hosts, options.metrics_port, security)
    ) as endpoint:
        async with serving(
            hosts.listen,
            options.port,
            services_at,
            announce=hosts.announce,
            security=security,
            on_serving=endpoint.set_ready,
        ) as server:
            (worker,) = made
            worker.presence.health = WorkerHealth.WARMING

            async def started() -> None:
                if worker.presence.health in (WorkerHealth.READY, WorkerHealth.WARMING):
                    worker.presence.health = WorkerHealth.DRAINING
                await server.set_serving(False)

            draining = worker.presence.draining = WorkerDrain(
                worker.drain,
                functools.partial(
                    move_sessions,
                    options.routers,
                    identity.worker_id,
                    identity.epoch,
                    security=security,
                ),
                default_s=drain_s,
                started=started,
                clock=time.monotonic,
            )
            leaving = asyncio.Event()
            joined = asyncio.ensure_future(
                stay_joined_to(
                    options.routers,
                    security=security,
                    status=worker.status,
                    model_id=worker.model_id,
                    heartbeat_s=_HEARTBEAT_S,
                    on_members=worker.members_changed,
                    leaving=leaving,
                    kept=worker.inventory.read,
                    news=lambda: worker.presence.health,
                )
            )
            audit = asyncio.ensure_future(audit_when_idle(worker, period_s=_AUDIT_PERIOD_S))
            warming = asyncio.ensure_future(_warm_up(worker, server))
            watch = asyncio.ensure_future(end_when_stuck(worker.watchdog, worker.presence))
            for task in (joined, audit, warming, watch):
                task.add_done_callback(exit_on_failure)
            try:
                yield RunningWorker(worker, server.address, draining)
            finally:
                warming.cancel()
                await draining.ask(None, move_sessions=False)
                leaving.set()
                # If the router hangs, it will mark this worker as lost instead.
                await asyncio.wait({joined}, timeout=_LEAVE_TIMEOUT_S)
                joined.cancel()
                audit.cancel()
                await worker.close()
                # Last, since a stuck engine would block the drain and the close.
                watch.cancel()


async def _warm_up(worker: Worker, server: RunningServer) -> None:
    started_at = time.monotonic()
    await worker.warm_up()
    if worker.presence.health is WorkerHealth.WARMING:
        worker.presence.health = WorkerHealth.READY
        await server.set_serving(True)
        took_s = time.monotonic() - started_at
        logger.info("warmed up; takes turns", extra={"seconds": round(took_s, 3)})


def exit_on_failure(task: asyncio.Future[None]) -> None:
    """Exits the process: a worker that may not join (because of another model) must not go
    unnoticed, and one whose memory does not add up or whose engine is stuck must not continue.
    """
    if not task.cancelled() and (error := task.exception()):
        leave_process(error)


async def audit_when_idle(worker: Worker, *, period_s: float) -> None:
    """Recounts the worker's memory between turns. Raises AccountingError if it does not add up:
    otherwise a page that two sequences own would give wrong text without an error.

    Stray units only reduce the memory, so each leak is logged once.
    """
    reported = ""
    while True:
        await asyncio.sleep(period_s)
        if (strays := str(worker.strays())) != reported:
            reported = strays
            if strays:
                logger.error("memory has leaked", extra={"strays": strays})
        load = worker.status().load
        if load.running_turns == load.waiting_turns == 0:
            worker.check_invariants()


def leave_process(error: BaseException) -> None:
    """Ends the process at once, so that its supervisor restarts it."""
    logger.critical("exiting the process", extra={"error": f"{type(error).__name__}: {error}"})
    os._exit(1)
