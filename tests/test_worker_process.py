"""A worker's readiness probe: ready from the start of serving until the drain."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from segue.api.cluster_status import WorkerLoad, WorkerStatus
from segue.api.types import Role
from segue.cache.inventory import Inventory
from segue.wire.server import Services
from segue.worker.process import Identity, Presence, WorkerOptions, serving_worker


def probe(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


async def probes(address: str) -> tuple[int, int]:
    return (
        await asyncio.to_thread(probe, address, "/livez"),
        await asyncio.to_thread(probe, address, "/readyz"),
    )


class IdleWorker:
    """Computes nothing, and records what its probes answered during the drain."""

    model_id = "none"

    def __init__(self, presence: Presence) -> None:
        self.presence = presence
        self.inventory = Inventory(())
        self.while_draining: tuple[int, int] | None = None

    def services(self) -> Services:
        return []

    def status(self) -> WorkerStatus:
        return self.presence.status(WorkerLoad())

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        pass

    def check_invariants(self) -> None:
        pass

    async def drain(self) -> None:
        self.while_draining = await probes(self.presence.metrics_address)

    async def close(self) -> None:
        pass


async def test_a_worker_is_ready_until_it_drains() -> None:
    serving = serving_worker(
        Identity.take("decode-0", Role.DECODE),
        CollectorRegistry(),
        IdleWorker,
        # No router is running: a worker serves without one.
        options=WorkerOptions(worker_id="decode-0", model="m", router_address="127.0.0.1:1"),
    )
    async with serving as running:
        worker = running.worker
        assert isinstance(worker, IdleWorker)
        assert await probes(worker.presence.metrics_address) == (200, 200)

    assert worker.while_draining == (200, 503)
