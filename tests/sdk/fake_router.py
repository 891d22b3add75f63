"""Routers without a cluster, over real gRPC, which die, come back and refuse when a test says so.

A token is a function of seed and position, as in a real cluster, so any router continues any turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from segue.api.cluster.status import ClusterStatus, RouterStatus
from segue.api.errors import SegueError
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnStarted, Usage
from segue.api.types import SessionId, TurnId
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server
from segue.wire.convert.events import events_to_wire
from segue.wire.convert.worker import cluster_to_wire
from segue.wire.server import serving
from segue.wire.streams.generate_many import generate_many

NUM_TOKENS = 12


def token(seed: int, position: int) -> int:
    return (seed * 31 + position * 7) % 1000


@dataclass
class FakeRouter(SessionsServicer):
    name: str = "a"
    dies_after: list[int] = field(default_factory=list)
    """For each turn that comes, the number of the answer's token after which the router dies."""
    refuses: list[SegueError | None] = field(default_factory=list)
    """What it answers to each turn that comes, in place of tokens."""
    refuses_after_start: list[SegueError] = field(default_factory=list)
    """The same after TurnStarted."""
    asked: list[pb.GenerateRequest] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """The unary calls."""
    hangs: bool = False
    """In place of dying it sends nothing more to that turn."""
    knows_turns: bool = False
    left: int = 0
    address: str = ""
    death: asyncio.Event = field(default_factory=asyncio.Event)

    async def GenerateMany(
        self, request_iterator: AsyncIterator[pb.GenerateManyCommands], context: Any
    ) -> AsyncIterator[pb.GenerateManyEvents]:
        async with contextlib.aclosing(generate_many(request_iterator, self._answer)) as messages:
            async for message in messages:
                yield message

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateEvent]:
        async with contextlib.aclosing(
            self._answer(request, context.time_remaining(), "")
        ) as answering:
            async for event in answering:
                yield event

    async def _answer(
        self, request: pb.GenerateRequest, timeout_s: float | None, api_key: str
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        self.asked.append(request)
        self.timeouts.append(timeout_s)
        if self.refuses and (error := self.refuses.pop(0)) is not None:
            raise error
        seed, resume = request.sampling.seed, request.resume
        dies_after = self.dies_after.pop(0) if self.dies_after else None
        number = len(resume.token_ids)
        assert list(resume.token_ids) == [token(seed, at) for at in range(number)]
        started = TurnStarted(
            session_id=SessionId(request.session_id or request.session_hint),
            turn_id=TurnId(request.turn_id),
            prompt_tokens=3,
            prefill_worker=f"prefill-{self.name}",
            decode_worker=f"decode-{self.name}",
            seed=seed,
            max_tokens=request.stop.max_tokens or 64,
        )
        num_tokens = min(request.stop.max_tokens or NUM_TOKENS, NUM_TOKENS)
        try:
            if dies_after == 0:
                await self._die()
            yield events_to_wire([started])
            if self.refuses_after_start:
                raise self.refuses_after_start.pop(0)
            while number < num_tokens:
                delta = TokenDelta(token_ids=(token(seed, number),), text=f"{number} ")
                number += 1
                yield events_to_wire([delta])
                if dies_after == number:
                    await self._die()
        except asyncio.CancelledError:
            self.left += 1
            raise
        usage = Usage(prompt_tokens=3, completion_tokens=number, resumed=resume.resumed)
        end = TurnEnd(
            finish_reason=FinishReason.STOP, usage=usage, decode_worker=f"decode-{self.name}"
        )
        yield events_to_wire([end])

    async def _die(self) -> None:
        # What was sent has left: its client has it.
        await asyncio.sleep(0.05)
        if not self.hangs:
            self.death.set()
        await asyncio.Event().wait()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        self.calls.append("status")
        cluster = ClusterStatus(
            ready=True,
            model=self.name,
            model_id="0",
            workers=(),
            router=RouterStatus(address=self.address),
        )
        return pb.GetStatusResponse(cluster=cluster_to_wire(cluster))

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        self.calls.append(f"cancel {request.turn_id}")
        return pb.CancelResponse(was_running=self.knows_turns)

    async def ForkSession(
        self, request: pb.ForkSessionRequest, context: Any
    ) -> pb.ForkSessionResponse:
        self.calls.append("fork")
        if self.dies_after:
            await self._die()
        return pb.ForkSessionResponse()

    async def RenewSession(
        self, request: pb.RenewSessionRequest, context: Any
    ) -> pb.RenewSessionResponse:
        self.calls.append("renew")
        if self.dies_after:
            await self._die()
        return pb.RenewSessionResponse(expires_in_s=7.0)


@contextlib.asynccontextmanager
async def serving_on(router: FakeRouter, port: int = 0) -> AsyncIterator[str]:
    """Its address. It dies when its `death` is set."""

    def add(server: Any) -> None:
        add_SessionsServicer_to_server(router, server)

    async with serving(
        "127.0.0.1", port, lambda address: [("segue.v1.Sessions", add)], grace_s=0.0
    ) as running:
        router.address = running.address
        dying = asyncio.ensure_future(router.death.wait())
        dying.add_done_callback(lambda death: None if death.cancelled() else _stop(running.server))
        try:
            yield running.address
        finally:
            dying.cancel()


def _stop(server: Any) -> None:
    _stopping.add(stopping := asyncio.ensure_future(server.stop(0.0)))
    stopping.add_done_callback(_stopping.discard)


_stopping: set[asyncio.Future[Any]] = set()


@contextlib.asynccontextmanager
async def coming_back(router: FakeRouter, *, after_s: float = 0.02) -> AsyncIterator[str]:
    """A router that is started again on its port each time that it dies."""
    async with serving_on(router) as address:
        port = int(address.rpartition(":")[2])

        async def restart() -> None:
            async with contextlib.AsyncExitStack() as lives:
                while True:
                    await router.death.wait()
                    await asyncio.sleep(after_s)
                    router.death = asyncio.Event()
                    await lives.enter_async_context(serving_on(router, port))

        restarting = asyncio.ensure_future(restart())
        try:
            yield address
        finally:
            restarting.cancel()
            await asyncio.wait({restarting})


def free_address() -> str:
    """Where nothing listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
