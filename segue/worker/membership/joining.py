"""A worker's membership in the cluster: a stream to each router, and one view made of theirs.

A router that cannot reach a worker reports it as lost, although it may be healthy and writing. So a
worker is a member while at least one router lists it. Without any router, the last views hold:
running handoffs continue, and routers come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.types import Epoch, WorkerId
from segue.security.config import OPEN, Security
from segue.wire.streams.join import KeptReader, stay_joined


@dataclass(frozen=True, slots=True)
class View:
    """The last report of one router."""

    workers: Sequence[WorkerStatus]
    is_connected: bool = True


def members_of(views: Iterable[View]) -> list[WorkerStatus]:
    """The cluster's workers, by id: each in its latest epoch, and lost only if all routers that are
    connected and know this epoch report so. If no router is connected, all last views count.
    """
    views = list(views)
    current = [view for view in views if view.is_connected] or views
    members: dict[WorkerId, WorkerStatus] = {}
    for view in current:
        for worker in view.workers:
            known = members.get(worker.worker_id)
            if known is None or _precedence(worker) > _precedence(known):
                members[worker.worker_id] = worker
    return [members[worker_id] for worker_id in sorted(members)]


def _precedence(worker: WorkerStatus) -> tuple[Epoch, bool]:
    return worker.epoch, worker.health is not WorkerHealth.LOST


async def stay_joined_to(
    routers: Sequence[str],
    *,
    status: Callable[[], WorkerStatus],
    model_id: str,
    heartbeat_s: float,
    on_members: Callable[[Sequence[WorkerStatus]], None],
    leaving: asyncio.Event,
    kept: Callable[[], KeptReader],
    security: Security = OPEN,
    news: Callable[[], object] = lambda: None,
) -> None:
    """Stays joined to each router, whatever happens to the others. See `stay_joined`."""
    views: dict[str, View] = {}

    def join(router: str) -> asyncio.Future[None]:
        def on_view(workers: Sequence[WorkerStatus]) -> None:
            views[router] = View(workers)
            on_members(members_of(views.values()))

        def on_lost() -> None:
            if router in views:
                views[router] = replace(views[router], is_connected=False)
                on_members(members_of(views.values()))

        return asyncio.ensure_future(
            stay_joined(
                router,
                status=status,
                model_id=model_id,
                heartbeat_s=heartbeat_s,
                on_view=on_view,
                leaving=leaving,
                kept=kept,
                on_lost=on_lost,
                news=news,
                num_routers=lambda: sum(view.is_connected for view in views.values()),
                security=security,
            )
        )

    await asyncio.gather(*(join(router) for router in routers))
