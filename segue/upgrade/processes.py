"""The processes of a cluster as a rolling restart sees and drains them, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import DeadlineExceeded, Unavailable
from segue.api.types import Role
from segue.sdk.client import Client
from segue.upgrade.gateway import GatewayCalls
from segue.upgrade.plan import Member, ProcessKind, ProcessView

_KIND_OF = {Role.PREFILL: ProcessKind.PREFILL, Role.DECODE: ProcessKind.DECODE}
View = TypeVar("View")
_AWAY = (Unavailable, DeadlineExceeded)


class ServedProcesses:
    """Routers, the workers that they show, and gateways."""

    def __init__(
        self,
        cluster: Client,
        routers: Sequence[Client],
        gateways: Sequence[GatewayCalls],
        *,
        drain_s: float | None = None,
    ) -> None:
        """`cluster`: a client of all routers. `routers`: one client for each. `drain_s`: time limit
        of each worker's and router's drain; by default its own `drain_s`."""
        self._cluster = cluster
        self._routers = {Member(ProcessKind.ROUTER, router.target): router for router in routers}
        self._gateways = {Member(ProcessKind.GATEWAY, gateway.url): gateway for gateway in gateways}
        self._drain_s = drain_s
        self._reached: set[Member] = set()

    async def look(self) -> Sequence[ProcessView]:
        views, gateways = await asyncio.gather(
            asyncio.gather(*(self._ask(m, r.status) for m, r in self._routers.items())),
            asyncio.gather(*(self._ask(m, g.process) for m, g in self._gateways.items())),
        )
        seen = workers_in([view for view in views if view is not None])
        for member, view in zip(self._routers, views, strict=True):
            is_ready = view is not None and view.ready
            seen.append(ProcessView(member, is_ready, view.router.uptime_s if view else 0.0))
        for member, gateway in zip(self._gateways, gateways, strict=True):
            uptime_s, is_draining = gateway or (0.0, True)
            seen.append(ProcessView(member, not is_draining, uptime_s))
        return seen

    async def drain(self, member: Member) -> str:
        if member.kind is ProcessKind.GATEWAY:
            await self._gateways[member].drain()
            return "it finishes its requests and takes no new ones"
        if member.kind is ProcessKind.ROUTER:
            ended, cut = await self._routers[member].drain_router(timeout_s=self._drain_s)
            return f"{ended} turns ended, {cut} went on elsewhere"
        return str(await self._cluster.drain_worker(member.name, timeout_s=self._drain_s))

    async def _ask(self, member: Member, ask: Callable[[], Awaitable[View]]) -> View | None:
        """None if the process does not answer. Raises the error if it never did."""
        try:
            view = await ask()
        except _AWAY:
            if member not in self._reached:
                raise
            return None
        self._reached.add(member)
        return view


def workers_in(views: Sequence[ClusterStatus]) -> list[ProcessView]:
    """The workers that any router knows. A worker is ready if every router that answers agrees."""
    members: dict[Member, list[tuple[bool, float]]] = {}
    for view in views:
        for worker in view.workers:
            is_ready = worker.health is WorkerHealth.READY
            member = Member(_KIND_OF[worker.role], str(worker.worker_id))
            members.setdefault(member, []).append((is_ready, worker.uptime_s))
    return [
        ProcessView(
            member,
            len(looks) == len(views) and all(is_ready for is_ready, _ in looks),
            max(uptime_s for _, uptime_s in looks),
        )
        for member, looks in members.items()
    ]
