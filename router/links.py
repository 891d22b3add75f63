"""Calls to workers: one channel per worker's life, values in and out, Segue's errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from segue.cluster_status import WorkerStatus
from segue.errors import SegueError
from segue.turn import PrefixHolder, TokenDelta, TurnResult
from segue.types import Epoch, Role, SessionId, TurnId, WorkerId
from segue.wire import worker_pb2 as pb
from segue.wire.convert_events import delta_from_wire
from segue.wire.convert_worker import holder_to_wire, result_from_wire, worker_from_wire
from segue.wire.server import channel_to
from segue.wire.status import error_from_rpc, rpc_errors
from segue.wire.transfer_pb2 import Ticket
from segue.wire.worker_pb2_grpc import DecodeWorkerStub, PrefillWorkerStub

if TYPE_CHECKING:
    # Names of the stubs' types only: the generated module does not have them at run time.
    from segue.wire.worker_pb2_grpc import DecodeWorkerAsyncStub, PrefillWorkerAsyncStub

# Releasing and looking are cheap for a living worker; a dead one must not hold the router up.
RELEASE_TIMEOUT_S = 5.0
STATUS_TIMEOUT_S = 2.0
LEASE_TIMEOUT_S = 2.0

Stub = TypeVar("Stub", "PrefillWorkerAsyncStub", "DecodeWorkerAsyncStub")


class _Link(Generic[Stub]):
    _stub: Stub

    def __init__(self, worker: WorkerStatus) -> None:
        self.name = f"{worker.worker_id} at {worker.address}"
        self._channel = channel_to(worker.address)

    async def release(self, turn_id: TurnId) -> None:
        """Stops the turn there, if it is there, and frees what it holds."""
        request = pb.ReleaseRequest(turn_id=turn_id)
        with rpc_errors(self.name):
            await self._stub.Release(request, timeout=RELEASE_TIMEOUT_S)

    async def status(self) -> WorkerStatus:
        with rpc_errors(self.name):
            reply = await self._stub.Status(pb.StatusRequest(), timeout=STATUS_TIMEOUT_S)
        return worker_from_wire(reply.status)

    async def close(self) -> None:
        await self._channel.close()


class PrefillLink(_Link["PrefillWorkerAsyncStub"]):
    def __init__(self, worker: WorkerStatus) -> None:
        super().__init__(worker)
        self._stub = PrefillWorkerStub(self._channel)

    async def prefill(
        self,
        turn: pb.TurnSpec,
        ticket: Ticket,
        holder: PrefixHolder | None,
        *,
        timeout_s: float,
    ) -> None:
        """Returns when decode has everything."""
        request = pb.PrefillRequest(
            turn=turn, ticket=ticket, holder=holder_to_wire(holder) if holder else None
        )
        with rpc_errors(self.name):
            await self._stub.Prefill(request, timeout=timeout_s)


class DecodeLink(_Link["DecodeWorkerAsyncStub"]):
    def __init__(self, worker: WorkerStatus) -> None:
        super().__init__(worker)
        self._stub = DecodeWorkerStub(self._channel)

    async def prefill_here(
        self, turn: pb.TurnSpec, max_computed_tokens: int, *, timeout_s: float
    ) -> int:
        """Waits for room there and has the rest of the prompt computed there. Returns how much.

        Raises NotResident when that is more than `max_computed_tokens`, Overloaded,
        DeadlineExceeded, Unavailable; then nothing of the turn is there.
        """
        request = pb.PrefillHereRequest(turn=turn, max_computed_tokens=max_computed_tokens)
        with rpc_errors(self.name):
            reply = await self._stub.PrefillHere(request, timeout=timeout_s)
        return reply.computed_tokens

    async def reserve(
        self, turn: pb.TurnSpec, writer: WorkerStatus, *, timeout_s: float
    ) -> tuple[Ticket, int]:
        """Waits for room there. Returns the ticket and how long a prefix has a state there.

        Raises Overloaded, DeadlineExceeded, Unavailable.
        """
        request = pb.ReserveRequest(
            turn=turn,
            writer_id=writer.worker_id,
            writer_epoch=writer.epoch,
            writer_address=writer.address,
        )
        with rpc_errors(self.name):
            reply = await self._stub.Reserve(request, timeout=timeout_s)
        return reply.ticket, reply.checkpoint_tokens

    async def renew_lease(
        self, session_id: SessionId, lease_s: float | None, pause_s: float | None
    ) -> float:
        """Returns its seconds. Raises NotFound."""
        request = pb.RenewLeaseRequest(session_id=session_id, lease_s=lease_s, pause_s=pause_s)
        with rpc_errors(self.name):
            reply = await self._stub.RenewLease(request, timeout=LEASE_TIMEOUT_S)
        return reply.expires_in_s

    async def end_lease(self, session_id: SessionId) -> None:
        with rpc_errors(self.name):
            request = pb.EndLeaseRequest(session_id=session_id)
            await self._stub.EndLease(request, timeout=LEASE_TIMEOUT_S)

    async def fork_lease(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Raises NotFound."""
        request = pb.ForkLeaseRequest(parent_id=parent_id, child_id=child_id)
        with rpc_errors(self.name):
            await self._stub.ForkLease(request, timeout=LEASE_TIMEOUT_S)

    def decode(self, turn_id: TurnId, *, timeout_s: float) -> TokenStream:
        call = self._stub.Decode(pb.DecodeRequest(turn_id=turn_id), timeout=timeout_s)
        return TokenStream(call, self.name)


class TokenStream:
    """A turn's tokens as decode sends them; somebody else may interrupt it with an error."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[pb.DecodeRequest, pb.DecodeEvent], peer: str
    ) -> None:
        self._call = call
        self._peer = peer
        self._interruption: SegueError | None = None

    def interrupt(self, error: SegueError) -> None:
        """Ends the call; whoever reads gets `error`."""
        self._interruption = self._interruption or error
        self._call.cancel()

    def close(self) -> None:
        self._call.cancel()

    async def read(self) -> TokenDelta | TurnResult:
        """The next event. Nothing may be read after a TurnResult."""
        try:
            event = await self._call.read()
        except grpc.aio.AioRpcError as rpc_error:
            raise error_from_rpc(rpc_error, self._peer) from rpc_error
        except asyncio.CancelledError:
            # A cancelled call and a cancelled reader look the same; only the first is ours to say.
            task = asyncio.current_task()
            if self._interruption and not (task and task.cancelling()):
                raise self._interruption from None
            raise
        if isinstance(event, pb.DecodeEvent):
            if event.WhichOneof("event") == "delta":
                return delta_from_wire(event.delta)
            return result_from_wire(event.end)
        raise self._interruption or SegueError(f"{self._peer} ended a turn without its result")


class Links:
    """Channels by worker and epoch, opened when first needed."""

    def __init__(self) -> None:
        self._links: dict[tuple[WorkerId, Epoch], PrefillLink | DecodeLink] = {}

    def prefill(self, worker: WorkerStatus) -> PrefillLink:
        link = self.to(worker)
        assert isinstance(link, PrefillLink)
        return link

    def decode(self, worker: WorkerStatus) -> DecodeLink:
        link = self.to(worker)
        assert isinstance(link, DecodeLink)
        return link

    def to(self, worker: WorkerStatus) -> PrefillLink | DecodeLink:
        key = worker.worker_id, worker.epoch
        if key not in self._links:
            kind = PrefillLink if worker.role is Role.PREFILL else DecodeLink
            self._links[key] = kind(worker)
        return self._links[key]

    async def forget_past_lives(self, worker: WorkerStatus) -> None:
        """Closes the channels to earlier epochs of a worker."""
        past = [key for key in self._links if key[0] == worker.worker_id and key[1] < worker.epoch]
        for key in past:
            await self._links.pop(key).close()

    async def forget(self, worker: WorkerStatus) -> None:
        """Closes the channel to this life of a worker; calls that still wait there fail."""
        link = self._links.pop((worker.worker_id, worker.epoch), None)
        if link is not None:
            await link.close()

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()
