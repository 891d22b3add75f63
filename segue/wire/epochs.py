"""A starting worker's call to a router: the greatest epoch of its earlier lives."""

from __future__ import annotations

from segue.api.types import WorkerId
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipStub
from segue.security.config import OPEN, Security
from segue.wire.channel import channel_to
from segue.wire.status import rpc_errors

LAST_EPOCH_S = 2.0


async def last_epoch(router: str, worker_id: WorkerId, *, security: Security = OPEN) -> int:
    """0 if the router has seen none. Raises SegueErrors."""
    request = worker_pb2.LastEpochRequest(worker_id=worker_id)
    # One channel per call: a worker starts once.
    async with channel_to(router, security) as channel:
        with rpc_errors(f"router {router}"):
            reply = await MembershipStub(channel).LastEpoch(request, timeout=LAST_EPOCH_S)
    return reply.epoch
