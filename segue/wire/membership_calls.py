"""Single calls between workers and routers: a worker's last epoch, and drains."""

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

LAST_EPOCH_S = 2.0
# The router answers when its own time is up; the message takes some more.
_SLACK_S = 2.0


async def last_epoch(router: str, worker_id: WorkerId, *, security: Security = OPEN) -> int:
    """The greatest epoch of the worker's earlier lives; 0 if the router has seen none. Raises
    SegueErrors."""
    request = worker_pb2.LastEpochRequest(worker_id=worker_id)
    # One channel per call: a worker starts once.
    async with channel_to(router, security) as channel:
        with rpc_errors(f"router {router}"):
            reply = await MembershipStub(channel).LastEpoch(request, timeout=LAST_EPOCH_S)
    return reply.epoch


async def move_sessions(
    routers: Sequence[str],
    worker_id: WorkerId,
    epoch: Epoch,
    sessions: Sequence[HeldSession],
    timeout_s: float,
    *,
    security: Security = OPEN,
) -> MoveReport:
    """Returns when each session has been moved or left behind. Asks the first router that can be
    reached, since any router knows where sessions are. Raises SegueErrors.
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


class Drainable(Protocol):
    """A worker as the call that drains it sees it."""

    async def drain(self, timeout_s: float | None, *, move_sessions: bool) -> DrainReport: ...


async def drained(worker: Drainable, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
    """Returns when the worker may leave. Raises InvalidRequest."""
    timeout_s = request.timeout_s if request.HasField("timeout_s") else None
    report = await worker.drain(timeout_s, move_sessions=request.move_sessions)
    return worker_pb2.DrainResponse(report=drain_report_to_wire(report))
