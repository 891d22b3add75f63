"""A worker's side of the membership: one stream, which carries heartbeats to the router and views
of the cluster back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import grpc

from segue.api.cluster_status import WorkerStatus
from segue.api.errors import InvalidRequest, LayoutMismatch
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipStub
from segue.wire.channel import channel_to
from segue.wire.convert.worker import worker_from_wire, worker_to_wire
from segue.wire.status import error_from_rpc

logger = logging.getLogger(__name__)

REJOIN_AFTER_S = 0.5


async def stay_joined(
    router_address: str,
    *,
    status: Callable[[], WorkerStatus],
    model_id: str,
    heartbeat_s: float,
    on_view: Callable[[Sequence[WorkerStatus]], None],
    leaving: asyncio.Event,
) -> None:
    """Joins the router, and rejoins after the stream breaks, until `leaving` is set.

    Returns once the router has received the leave; at once if the router is unreachable. Raises
    LayoutMismatch if the router serves another model: rejoining would not help.
    """

    def heartbeat(*, is_last: bool) -> worker_pb2.Heartbeat:
        return worker_pb2.Heartbeat(
            status=worker_to_wire(status()), model_id=model_id, leaving=is_last
        )

    async def heartbeats() -> AsyncIterator[worker_pb2.Heartbeat]:
        while not leaving.is_set():
            yield heartbeat(is_last=False)
            await _wait(leaving, heartbeat_s)
        yield heartbeat(is_last=True)

    log = _ChangeLog()
    while not leaving.is_set():
        async with channel_to(router_address) as channel:
            try:
                async for view in MembershipStub(channel).Join(heartbeats()):
                    log.log(logging.INFO, "joined the router", router=router_address)
                    on_view([worker_from_wire(worker) for worker in view.workers])
                if not leaving.is_set():
                    logger.info("the router closed the membership stream; rejoining")
            except grpc.aio.AioRpcError as rpc_error:
                error = error_from_rpc(rpc_error, f"router {router_address}")
                if isinstance(error, LayoutMismatch):
                    raise error from None
                log.log(logging.WARNING, "cannot reach the router; retrying", error=str(error))
            except InvalidRequest as error:
                logger.error("the router's view cannot be read", extra={"error": str(error)})
        await _wait(leaving, REJOIN_AFTER_S)


class _ChangeLog:
    """Logs a message only if it differs from the last one."""

    def __init__(self) -> None:
        self._last = ""

    def log(self, level: int, message: str, **about: str) -> None:
        if message != self._last:
            self._last = message
            logger.log(level, message, extra=about)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
