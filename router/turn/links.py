"""Calls to workers, over one channel per worker and epoch. Takes and returns values, raises
SegueErrors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, TypeAlias

import grpc

from router.turn.calls import NamedTurn, PromptPrefilled, PromptSource, TurnCall
from segue.api.cluster.drain import MAX_DRAIN_S, Adopted, DrainReport, HeldSession
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import SegueError, Unavailable
from segue.api.turn import ComputedOnDecode, PrefixHolder, PromptLogprobs
from segue.api.types import Epoch, Role, SessionId, WorkerId
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.transfer_pb2 import Ticket
from segue.internal.v1.worker_pb2_grpc import DecodeWorkerStub, PrefillWorkerStub
from segue.security.config import OPEN, Security
from segue.wire.channel import channel_to
from segue.wire.convert.drain import adopted_from_wire, drain_report_from_wire, prefixes_to_wire
from segue.wire.convert.same_names import message_of
from segue.wire.convert.trace import outgoing_to_wire
from segue.wire.convert.turns import turn_to_wire
from segue.wire.convert.worker import worker_from_wire
from segue.wire.status import rpc_errors
from segue.wire.streams.client import Calls
from segue.wire.streams.outbox import Outbox, numbered

if TYPE_CHECKING:
    # For type annotations only: the generated module does not have these names at run time.
    from segue.internal.v1.worker_pb2_grpc import DecodeWorkerAsyncStub, PrefillWorkerAsyncStub

    Stub: TypeAlias = PrefillWorkerAsyncStub | DecodeWorkerAsyncStub

# A live worker answers these at once; a dead one must not delay the router.
STATUS_TIMEOUT_S = 2.0
LEASE_TIMEOUT_S = 2.0
# A drain still waits for writes in flight after its deadline.
DRAIN_SLACK_S = 30.0
# Shortest time between two messages to one worker. Commands that arrive faster share a message.
_MIN_GAP_S = 0.002

TurnCalls: TypeAlias = Calls[pb.TurnCommand, pb.TurnEvent]


def worker_calls(stub: Stub, peer: str, worker_id: str) -> TurnCalls:
    """One router's calls for turns to one worker. Error messages name it `peer`."""

    def open_stream(
        batches: AsyncIterator[list[pb.TurnCommand]],
    ) -> grpc.aio.StreamStreamCall[pb.TurnCommands, pb.TurnEvents]:
        async def messages() -> AsyncIterator[pb.TurnCommands]:
            async for number, commands in numbered(batches):
                yield pb.TurnCommands(commands=commands, number=number)

        return stub.Turns(messages())

    @contextlib.contextmanager
    def errors() -> Iterator[None]:
        try:
            with rpc_errors(peer):
                yield
        except SegueError as error:
            # Whatever broke the stream, its turns may continue elsewhere.
            broken = error if error.retry_is_safe else Unavailable(str(error))
            if isinstance(broken, Unavailable):
                broken.lost_worker = worker_id
            raise broken from error

    return Calls(open_stream, peer, errors, outbox=lambda: Outbox(min_gap_s=_MIN_GAP_S))


class WorkerLink:
    """Calls to one epoch of a worker."""

    def __init__(self, worker: WorkerStatus, security: Security = OPEN) -> None:
        self.name = f"{worker.worker_id} at {worker.address}"
        self._worker = worker
        self._security = security
        self._channel = channel_to(worker.address, security)
        self._stub = self._stub_on(self._channel)
        self._calls = worker_calls(self._stub, self.name, worker.worker_id)

    def _stub_on(self, channel: grpc.aio.Channel) -> Stub:
        is_prefill = self._worker.role is Role.PREFILL
        return PrefillWorkerStub(channel) if is_prefill else DecodeWorkerStub(channel)

    async def status(self) -> WorkerStatus:
        with rpc_errors(self.name):
            reply = await self._stub.Status(pb.StatusRequest(), timeout=STATUS_TIMEOUT_S)
        return worker_from_wire(reply.status)

    async def drain(self, timeout_s: float | None, *, move_sessions: bool) -> DrainReport:
        """Returns when the worker is about to leave. Cancelling the call does not end the drain."""
        request = pb.DrainRequest(timeout_s=timeout_s, move_sessions=move_sessions)
        patience_s = (MAX_DRAIN_S if timeout_s is None else timeout_s) + DRAIN_SLACK_S
        # On a separate channel: the link's closes once the worker has left, maybe before the reply.
        async with channel_to(self._worker.address, self._security) as channel:
            with rpc_errors(self.name):
                reply = await self._stub_on(channel).Drain(request, timeout=patience_s)
        return drain_report_from_wire(reply.report)

    async def prefill(
        self, turn: NamedTurn, ticket: Ticket, holder: PrefixHolder | None
    ) -> PromptLogprobs | None:
        prompt = pb.PrefillPrompt(
            turn=_turn_to_wire(turn),
            ticket=ticket,
            holder=message_of(pb.PrefixHolder, holder) if holder else None,
        )
        call = self._calls.start(pb.TurnCommand(prefill=prompt), TurnCall)
        try:
            news = await call.read()
        finally:
            call.close()
        assert isinstance(news, PromptPrefilled), "a prefill's only event"
        return news.logprobs

    def lost(self) -> None:
        """Fails all calls to the worker."""
        error = Unavailable(f"{self.name} is lost: its process ended, or does not answer")
        error.lost_worker = self._worker.worker_id
        self._calls.fail(error)

    async def close(self) -> None:
        await self._calls.close()
        await self._channel.close()


class DecodeLink(WorkerLink):
    """Calls to one epoch of a decode worker."""

    _stub: DecodeWorkerAsyncStub

    def start(self, turn: NamedTurn, source: PromptSource, *, timeout_s: float) -> TurnCall:
        start = pb.StartTurn(turn=_turn_to_wire(turn), timeout_s=timeout_s)
        match source:
            case ComputedOnDecode(max_tokens):
                start.max_computed_tokens = max_tokens
            case WorkerStatus():
                start.writer.CopyFrom(_writer(source))
        return self._calls.start(pb.TurnCommand(start=start), TurnCall)

    async def renew_lease(
        self,
        session_id: SessionId,
        lease_s: float | None,
        pause_s: float | None = None,
        *,
        only_longer: bool = False,
    ) -> float:
        """Returns the seconds until the lease expires. Raises NotFound. `only_longer`: does not
        shorten the lease."""
        request = pb.RenewLeaseRequest(
            session_id=session_id, lease_s=lease_s, pause_s=pause_s, only_longer=only_longer
        )
        with rpc_errors(self.name):
            reply = await self._stub.RenewLease(request, timeout=LEASE_TIMEOUT_S)
        return reply.expires_in_s

    async def end_lease(self, session_id: SessionId) -> float:
        """Returns the seconds that the lease had left; 0 if there was none."""
        with rpc_errors(self.name):
            request = pb.EndLeaseRequest(session_id=session_id)
            reply = await self._stub.EndLease(request, timeout=LEASE_TIMEOUT_S)
        return reply.left_s

    async def fork_lease(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Raises NotFound."""
        request = pb.ForkLeaseRequest(parent_id=parent_id, child_id=child_id)
        with rpc_errors(self.name):
            await self._stub.ForkLease(request, timeout=LEASE_TIMEOUT_S)

    async def adopt(
        self, session: HeldSession, source: WorkerStatus, *, timeout_s: float
    ) -> Adopted:
        """Makes this worker pull a session. Raises Overloaded if it has no room for it."""
        request = pb.AdoptRequest(
            session_id=session.session_id,
            source=_writer(source),
            prefixes=prefixes_to_wire(session.prefixes),
            lease_s=session.expires_in_s,
            timeout_s=timeout_s,
        )
        with rpc_errors(self.name):
            reply = await self._stub.Adopt(request, timeout=timeout_s + LEASE_TIMEOUT_S)
        return adopted_from_wire(reply)


def _writer(worker: WorkerStatus) -> pb.Writer:
    return pb.Writer(worker_id=worker.worker_id, epoch=worker.epoch, address=worker.address)


def _turn_to_wire(turn: NamedTurn) -> pb.TurnSpec:
    wire = turn_to_wire(turn.spec, turn.prefix, turn_id=turn.name)
    if (trace := outgoing_to_wire()) is not None:
        wire.trace.CopyFrom(trace)
    return wire


class Links:
    """Channels by worker and epoch, opened on first use. Implements `WorkerCalls`."""

    def __init__(self, security: Security = OPEN) -> None:
        self._security = security
        self._links: dict[tuple[WorkerId, Epoch], WorkerLink] = {}
        self._ending: set[asyncio.Task[object]] = set()

    def start(
        self, decode: WorkerStatus, turn: NamedTurn, source: PromptSource, *, timeout_s: float
    ) -> TurnCall:
        return self.decode(decode).start(turn, source, timeout_s=timeout_s)

    async def prefill(
        self, prefill: WorkerStatus, turn: NamedTurn, ticket: Ticket, holder: PrefixHolder | None
    ) -> PromptLogprobs | None:
        return await self.to(prefill).prefill(turn, ticket, holder)

    def decode(self, worker: WorkerStatus) -> DecodeLink:
        link = self.to(worker)
        assert isinstance(link, DecodeLink)
        return link

    def to(self, worker: WorkerStatus) -> WorkerLink:
        key = worker.worker_id, worker.epoch
        if key not in self._links:
            kind = WorkerLink if worker.role is Role.PREFILL else DecodeLink
            self._links[key] = kind(worker, self._security)
        return self._links[key]

    async def forget_past_lives(self, worker: WorkerStatus) -> None:
        """Closes the channels to a worker's earlier epochs."""
        past = [key for key in self._links if key[0] == worker.worker_id and key[1] < worker.epoch]
        for key in past:
            await self._links.pop(key).close()

    def lost(self, worker: WorkerStatus) -> None:
        """Fails the calls to a stuck worker, or to a silent one, whose connection may take a minute
        to break."""
        link = self._links.get((worker.worker_id, worker.epoch))
        if link is not None:
            link.lost()

    def let_end(self, call: asyncio.Task[object]) -> None:
        """Lets a call finish in the background that nothing waits for any more."""
        self._ending.add(call)
        call.add_done_callback(self._ending.discard)

    async def forget(self, worker: WorkerStatus) -> None:
        """Closes the channel to this epoch of a worker. Calls that still wait on it fail."""
        link = self._links.pop((worker.worker_id, worker.epoch), None)
        if link is not None:
            await link.close()

    async def close(self) -> None:
        for call in self._ending:
            call.cancel()
        for link in self._links.values():
            await link.close()
