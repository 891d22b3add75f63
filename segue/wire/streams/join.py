"""A worker's side of its membership: a stream to a router. It carries heartbeats and changes of the
worker's cache to the router, and views of the cluster back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

import grpc

from segue.api.cluster.kept import KeptChanges
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import InvalidRequest, LayoutMismatch, StaleEpoch, Unavailable
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipStub
from segue.process.cancellation import wait_at_most
from segue.security.config import OPEN, Security
from segue.wire.channel import channel_to
from segue.wire.convert.kept import kept_to_wire
from segue.wire.convert.worker import worker_from_wire, worker_to_wire
from segue.wire.status import error_from_rpc

logger = logging.getLogger(__name__)

REJOIN_AFTER_S = 0.5
# On one machine a router and its workers start together.
_ROUTER_STARTS_S = 10.0
# Interval between reports of cache changes: another router may receive a session's next turn as
# soon as the current one has ended.
_CHANGES_S = 0.1


class KeptReader(Protocol):
    """The changes that one stream has not reported yet. A new stream reports the whole cache."""

    def pieces(self) -> Iterable[KeptChanges]: ...
    def close(self) -> None: ...


class KeepsNothing:
    """For a worker that reports nothing."""

    def pieces(self) -> Iterable[KeptChanges]:
        return ()

    def close(self) -> None:
        pass


async def stay_joined(
    router_address: str,
    *,
    status: Callable[[], WorkerStatus],
    model_id: str,
    heartbeat_s: float,
    on_view: Callable[[Sequence[WorkerStatus]], None],
    leaving: asyncio.Event,
    security: Security = OPEN,
    kept: Callable[[], KeptReader] = KeepsNothing,
    on_lost: Callable[[], None] = lambda: None,
    num_routers: Callable[[], int] = lambda: 1,
    news: Callable[[], object] = lambda: None,
) -> None:
    """Joins the router, and rejoins after the stream breaks, until `leaving` is set. Calls
    `on_lost` for each stream that ends. `num_routers`: the routers that the worker has joined.
    Sends a heartbeat at once when `news()` changes.

    Returns once the router has received the leave; at once if the router is unreachable. Raises
    LayoutMismatch if the router serves another model, and StaleEpoch if it knew a greater epoch
    before this worker ever joined it (the clock was set back, and the router was unreachable when
    the epoch was chosen): rejoining would not help, but a new epoch will.
    """

    def heartbeat() -> worker_pb2.Heartbeat:
        return worker_pb2.Heartbeat(
            status=worker_to_wire(status()),
            model_id=model_id,
            leaving=leaving.is_set(),
            num_routers=num_routers(),
        )

    log = _ChangeLog()
    loop = asyncio.get_running_loop()
    has_joined, started_at = False, loop.time()
    while not leaving.is_set():
        async with channel_to(router_address, security) as channel:
            with contextlib.closing(kept()) as reader:
                messages = _messages(heartbeat, heartbeat_s, reader, leaving, news)
                try:
                    async for view in MembershipStub(channel).Join(messages):
                        has_joined = True
                        log.log(logging.INFO, "joined the router", router=router_address)
                        on_view([worker_from_wire(worker) for worker in view.workers])
                    if not leaving.is_set():
                        logger.info("the router closed the membership stream; rejoining")
                except grpc.aio.AioRpcError as rpc_error:
                    error = error_from_rpc(rpc_error, f"router {router_address}")
                    # A replaced worker is refused too, and must not come back as the latest.
                    is_behind = isinstance(error, StaleEpoch) and not has_joined
                    if isinstance(error, LayoutMismatch) or is_behind:
                        raise error from None
                    is_early = not has_joined and loop.time() < started_at + _ROUTER_STARTS_S
                    if is_early and isinstance(error, Unavailable):
                        log.log(logging.INFO, "waiting for the router", router=router_address)
                    else:
                        lost = "cannot reach the router; retrying"
                        log.log(logging.WARNING, lost, error=str(error))
                except InvalidRequest as error:
                    logger.error("cannot read the router's view", extra={"error": str(error)})
        on_lost()
        await wait_at_most(leaving, REJOIN_AFTER_S)


async def _messages(
    heartbeat: Callable[[], worker_pb2.Heartbeat],
    heartbeat_s: float,
    kept: KeptReader,
    leaving: asyncio.Event,
    news: Callable[[], object],
) -> AsyncIterator[worker_pb2.Heartbeat]:
    """The last message is the leave."""
    loop = asyncio.get_running_loop()
    beat_at, last = loop.time(), news()
    while not leaving.is_set():
        if loop.time() >= beat_at or news() != last:
            beat_at, last = loop.time() + heartbeat_s, news()
            yield heartbeat()
        for changes in kept.pieces():
            yield worker_pb2.Heartbeat(kept=kept_to_wire(changes))
        await wait_at_most(leaving, max(min(beat_at - loop.time(), _CHANGES_S), 0.0))
    yield heartbeat()


class _ChangeLog:
    """Logs a message only if it differs from the last one."""

    def __init__(self) -> None:
        self._last = ""

    def log(self, level: int, message: str, **about: str) -> None:
        if message != self._last:
            self._last = message
            logger.log(level, message, extra=about)
