"""The gRPC service through which workers join the cluster and send heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from router.router import Router
from segue.api.checks import require_name
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import InvalidRequest
from segue.api.types import Epoch, Role, WorkerId
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipServicer
from segue.wire.convert.drain import held_from_wire, moves_to_wire
from segue.wire.convert.kept import kept_from_wire
from segue.wire.convert.worker import worker_from_wire, worker_to_wire

Context = grpc.aio.ServicerContext[Any, Any]


class MembershipService(MembershipServicer):
    def __init__(self, router: Router) -> None:
        self._router = router
        self._streams: dict[WorkerId, object] = {}
        """Each worker's latest stream. The end of an earlier one may be noticed much later."""

    async def Join(
        self, request_iterator: AsyncIterator[worker_pb2.Heartbeat], context: Context
    ) -> AsyncIterator[worker_pb2.ClusterView]:
        membership = self._router.membership
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise InvalidRequest("expected a heartbeat from the worker that joins, got none")
        worker = _status_of(first)
        if first.leaving:
            membership.left(worker.worker_id, worker.epoch)
            return
        membership.heartbeat(worker, first.model_id, first.num_routers)
        # A new stream starts with everything that the worker keeps.
        self._router.placing.kept.prefixes.forget(worker.worker_id)
        stream = self._streams[worker.worker_id] = object()
        await self._router.links.forget_past_lives(worker)
        listening = asyncio.ensure_future(self._listen(request_iterator, worker, stream))
        views = membership.views()
        view = asyncio.ensure_future(anext(views))
        try:
            while True:
                await asyncio.wait({view, listening}, return_when=asyncio.FIRST_COMPLETED)
                if listening.done():
                    if listening.result():
                        membership.left(worker.worker_id, worker.epoch)
                    return
                yield worker_pb2.ClusterView(workers=[worker_to_wire(w) for w in view.result()])
                view = asyncio.ensure_future(anext(views))
        finally:
            listening.cancel()
            view.cancel()
            if self._streams.get(worker.worker_id) is stream:
                del self._streams[worker.worker_id]
                membership.lost(worker.worker_id, worker.epoch)

    async def MoveSessions(
        self, request: worker_pb2.MoveSessionsRequest, context: Context
    ) -> worker_pb2.MoveSessionsResponse:
        report = await self._router.drains.move(
            WorkerId(request.worker_id),
            Epoch(request.epoch),
            [held_from_wire(session) for session in request.sessions],
            timeout_s=request.timeout_s,
        )
        return moves_to_wire(report)

    async def LastEpoch(
        self, request: worker_pb2.LastEpochRequest, context: Context
    ) -> worker_pb2.LastEpochResponse:
        require_name("worker_id", request.worker_id)
        epoch = self._router.membership.last_epoch(WorkerId(request.worker_id))
        return worker_pb2.LastEpochResponse(epoch=epoch)

    async def _listen(
        self, heartbeats: AsyncIterator[worker_pb2.Heartbeat], worker: WorkerStatus, stream: object
    ) -> bool:
        """Takes heartbeats until the stream ends. Returns whether the worker announced that it
        leaves."""
        async for heartbeat in heartbeats:
            if heartbeat.HasField("kept"):
                if self._streams.get(worker.worker_id) is stream:
                    self._router.placing.kept.take(worker, kept_from_wire(heartbeat.kept))
                continue
            status = _status_of(heartbeat)
            if _identity(status) != _identity(worker):
                raise InvalidRequest(
                    f"expected heartbeats of {worker.worker_id} in epoch {worker.epoch} on this "
                    f"stream, got one of {status.worker_id} in epoch {status.epoch}: join on "
                    "another stream"
                )
            if heartbeat.leaving:
                return True
            membership = self._router.membership
            membership.heartbeat(status, heartbeat.model_id, heartbeat.num_routers)
        return False


def _status_of(heartbeat: worker_pb2.Heartbeat) -> WorkerStatus:
    """Raises InvalidRequest."""
    status = worker_from_wire(heartbeat.status)
    require_name(f"the model_id of {status.worker_id}", heartbeat.model_id)
    if status.health is WorkerHealth.LOST:
        raise InvalidRequest(
            f"{status.worker_id} reports its health as lost: only the router decides that"
        )
    return status


def _identity(status: WorkerStatus) -> tuple[WorkerId, Epoch, Role, str]:
    return status.worker_id, status.epoch, status.role, status.address
