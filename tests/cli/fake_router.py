"""A router without a cluster: it answers at once or endlessly, and records cancelled turns."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import ClusterStatus, RouterStatus, WorkerStatus
from segue.api.errors import Overloaded, TransferFailed
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, Usage
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsServicer, add_SessionsServicer_to_server
from segue.wire.convert.drain import drain_report_to_wire
from segue.wire.convert.events import events_to_wire
from segue.wire.convert.worker import cluster_to_wire
from segue.wire.server import serving
from segue.wire.streams.generate_many import generate_many

ENDLESS = "Tell me everything."
"""The message that is answered endlessly."""
BROKEN = "Break off."
"""The message whose answer fails after its first token."""
REFUSED = "Refuse me."
"""The message that is refused, as by a router without room."""


@dataclass
class FakeRouter(SessionsServicer):
    """Answers every other message with the number of messages."""

    model: str = "demo"
    address: str = ""
    num_cancelled: int = 0
    running_turns: int = 0
    asked: list[str] = field(default_factory=list)
    workers: tuple[WorkerStatus, ...] = ()
    drained: list[str] = field(default_factory=list)

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateEvent]:
        async with contextlib.aclosing(self._answer(request)) as answering:
            async for event in answering:
                yield event

    async def GenerateMany(
        self, request_iterator: AsyncIterator[pb.GenerateManyCommands], context: Any
    ) -> AsyncIterator[pb.GenerateManyEvents]:
        async with contextlib.aclosing(generate_many(request_iterator, self._answer)) as messages:
            async for message in messages:
                yield message

    async def _answer(
        self, request: pb.GenerateRequest, timeout_s: float | None = None, api_key: str = ""
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        question = request.chat.messages[-1].content
        self.asked.append(question)
        if question == REFUSED:
            raise Overloaded.after("no room for another turn", retry_after_s=2.5)
        try:
            while question == ENDLESS:
                yield events_to_wire([TokenDelta(token_ids=(1,), text="more ")])
                await asyncio.sleep(0.01)
        finally:
            self.num_cancelled += question == ENDLESS
        if question == BROKEN:
            yield events_to_wire([TokenDelta(token_ids=(1,), text="more ")])
            raise TransferFailed("the bytes did not arrive")
        text = f"answer {len(request.chat.messages)}"
        end = TurnEnd(
            finish_reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=7, completion_tokens=2),
            prefill_worker="prefill-0",
            decode_worker="decode-0",
        )
        yield events_to_wire([TokenDelta(token_ids=(1, 2), text=text), end])

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        router = RouterStatus(address=self.address, running_turns=self.running_turns)
        cluster = ClusterStatus(
            ready=True, model=self.model, model_id="0", workers=self.workers, router=router
        )
        return pb.GetStatusResponse(cluster=cluster_to_wire(cluster))

    async def DrainWorker(
        self, request: pb.DrainWorkerRequest, context: Any
    ) -> pb.DrainWorkerResponse:
        self.drained.append(request.worker_id)
        return pb.DrainWorkerResponse(report=drain_report_to_wire(DrainReport()))


@contextmanager
def fake_router(model: str = "demo") -> Iterator[FakeRouter]:
    """Serves in a thread with its own loop, since the tests' programs are processes."""
    router = FakeRouter(model)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        def add(server: Any) -> None:
            add_SessionsServicer_to_server(router, server)

        services = [("segue.v1.Sessions", add)]
        async with serving("127.0.0.1", 0, lambda _: services, grace_s=0.1) as running:
            router.address = running.address
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        yield router
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
