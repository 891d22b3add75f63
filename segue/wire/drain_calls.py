"""The two calls of a drain: the router's to the worker, and the worker's to move its sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from segue.api.cluster.drain import DrainReport, HeldSession, MoveReport
from segue.api.errors import Unavailable
from segue.api.types import Epoch, WorkerId
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipStub
from segue.security.config import OPEN, Security
from segue.wire.channel import channel_to
from segue.wire.convert.drain import drain_report_to_wire, held_to_wire, moves_from_wire
from segue.wire.status import rpc_errors

# The router answers when its own time is up; the message takes some more.
_SLACK_S = 2.0


async def move_sessions(
    routers: Sequence[str],
    worker_id: WorkerId,
    epoch: Epoch,
    sessions: Sequence[HeldSession],
    timeout_s: float,
    *,
    security: Security = OPEN,
) -> MoveReport:
    """Returns when each session was moved, or is left behind. Any router knows where sessions are:
    the first one that can be reached is asked. Raises SegueErrors.
    """
    request = worker_pb2.MoveSessionsRequest(
        worker_id=worker_id,
        epoch=epoch,
        sessions=[held_to_wire(session) for session in sessions],
        timeout_s=timeout_s,
    )
    away = Unavailable("no router can be reached")
    for router in routers:
        try:
            return await _ask(router, request, security)
        except Unavailable as error:
            away = error
    raise away


async def _ask(
    router: str, request: worker_pb2.MoveSessionsRequest, security: Security
) -> MoveReport:
    # One channel per call: drains are rare.
    async with channel_to(router, security) as channel:
        with rpc_errors(f"router {router}"):
            reply = await MembershipStub(channel).MoveSessions(
                request, timeout=request.timeout_s + _SLACK_S
            )
    return moves_from_wire(reply)


class Drains(Protocol):
    """A worker, to the call that drains it."""

    async def drain(self, timeout_s: float | None, *, move_sessions: bool) -> DrainReport: ...


async def drained(worker: Drains, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
    """Returns when the worker may leave. Raises InvalidRequest."""
    timeout_s = request.timeout_s if request.HasField("timeout_s") else None
    report = await worker.drain(timeout_s, move_sessions=request.move_sessions)
    return worker_pb2.DrainResponse(report=drain_report_to_wire(report))
