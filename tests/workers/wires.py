"""The calls between workers of one process: late, lost, duplicated or cut off, on command."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from kv_transfer.exchange import Exchange
from kv_transfer.layout import MemoryMap, require_same_layout
from kv_transfer.ticket import Checksums, Fence, PeerIdentity, Ticket, require_seal
from segue.api.errors import DeadlineExceeded, SegueError, StaleEpoch, Unavailable
from segue.api.prompt import PrefixName
from segue.api.turn import PrefillOutcome
from segue.api.types import WorkerId

Answer = TypeVar("Answer")


class Fault(enum.Enum):
    LOST = "the call is lost"
    NO_ANSWER = "the call arrives, its answer is lost"
    TWICE = "the call arrives twice"
    LATE = "the call arrives when its caller has given up"


class Wires:
    """All workers of a test, and the calls between them."""

    def __init__(self) -> None:
        self.exchanges: dict[WorkerId, Exchange] = {}
        self.cut_off: set[WorkerId] = set()
        self.dead: set[WorkerId] = set()
        """Cut off, because their processes have ended: their addresses refuse connections."""
        self.faults: dict[str, Fault] = {}
        """By method: the fault of its next call."""
        self.num_calls: dict[str, int] = {}
        self.serves_apart = False
        self.serving: set[asyncio.Task[None]] = set()
        self._late: list[Callable[[], Awaitable[object]]] = []

    def peers_of(self, caller: WorkerId) -> WiredPeers:
        return WiredPeers(self, caller)

    async def call(
        self,
        method: str,
        caller: WorkerId,
        callee: WorkerId,
        work: Callable[[Exchange], Awaitable[Answer]],
    ) -> Answer:
        exchange = self.exchanges[callee]
        self.num_calls[method] = self.num_calls.get(method, 0) + 1
        fault = self.faults.pop(method, None)
        await asyncio.sleep(0)
        self._require_connected(caller, callee)
        if fault is Fault.LOST:
            raise Unavailable(f"{method} was lost")
        if fault is Fault.LATE:
            self._late.append(lambda: work(exchange))
            raise DeadlineExceeded(f"{method} took too long")
        answer = await work(exchange)
        if fault is Fault.TWICE:
            with contextlib.suppress(SegueError):
                await work(exchange)
        await asyncio.sleep(0)
        self._require_connected(caller, callee)
        if fault is Fault.NO_ANSWER:
            raise Unavailable(f"the answer to {method} was lost")
        return answer

    async def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """With `serves_apart`, a caller that leaves does not wait for its callee to clean up."""
        if not self.serves_apart:
            await work
            return
        serving = asyncio.ensure_future(work)
        self.serving.add(serving)
        serving.add_done_callback(self._served)
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            serving.cancel()
            raise

    def _served(self, serving: asyncio.Task[None]) -> None:
        self.serving.discard(serving)
        if not serving.cancelled():
            serving.exception()

    async def deliver_late(self) -> None:
        late, self._late = self._late, []
        for work in late:
            with contextlib.suppress(SegueError):
                await work()

    def _require_connected(self, *workers: WorkerId) -> None:
        for worker in workers:
            if worker in self.cut_off:
                raise Unavailable(f"{worker} cannot be reached")


class WiredPeers:
    """`PeerCalls` of one worker."""

    def __init__(self, wires: Wires, caller: WorkerId) -> None:
        self._wires = wires
        self._caller = caller

    async def meet(self, ticket: Ticket, *, timeout_s: float) -> MemoryMap:
        async def work(callee: Exchange) -> MemoryMap:
            theirs = callee.reader.memory_map
            if theirs.epoch != ticket.reader.epoch:
                raise StaleEpoch(f"{theirs.worker_id} is in epoch {theirs.epoch}")
            require_same_layout(self._wires.exchanges[self._caller].reader.memory_map, theirs)
            require_seal(ticket, callee.reader.ticket_key)
            return theirs

        return await self._call("meet", ticket.reader.worker_id, work)

    async def commit(
        self,
        ticket: Ticket,
        checksums: Checksums,
        outcome: PrefillOutcome | None,
        *,
        timeout_s: float,
    ) -> None:
        async def work(callee: Exchange) -> None:
            await callee.reader.commit(ticket.ticket_id, ticket.reader.epoch, checksums, outcome)

        await self._call("commit", ticket.reader.worker_id, work)

    async def abort(self, ticket: Ticket, reason: str, *, timeout_s: float) -> None:
        async def work(callee: Exchange) -> None:
            callee.reader.abort(ticket.ticket_id, ticket.reader.epoch, reason)

        await self._call("abort", ticket.reader.worker_id, work)

    async def fence(self, fence: Fence, *, timeout_s: float) -> bool:
        if fence.writer.worker_id in self._wires.dead:
            return False

        async def work(callee: Exchange) -> None:
            if fence.writer.epoch == callee.writer.epoch:
                await callee.writer.fence(fence.ticket_id)

        await self._call("fence", fence.writer.worker_id, work)
        return True

    async def pull(
        self, source: PeerIdentity, ticket: Ticket, prefix: PrefixName, *, timeout_s: float
    ) -> None:
        async def work(callee: Exchange) -> None:
            await callee.members.require(ticket.reader)
            await self._wires.serve(callee.lend(ticket, prefix))

        await self._call("pull", source.worker_id, work)

    async def read_prefix(
        self, source: PeerIdentity, prefix: PrefixName, *, timeout_s: float
    ) -> Sequence[bytes]:
        async def work(callee: Exchange) -> Sequence[bytes]:
            return await callee.read_keys(prefix)

        return await self._call("read_prefix", source.worker_id, work)

    async def close(self) -> None:
        """Has no connection to close."""

    async def _call(
        self, method: str, callee: WorkerId, work: Callable[[Exchange], Awaitable[Answer]]
    ) -> Answer:
        return await self._wires.call(method, self._caller, callee, work)
