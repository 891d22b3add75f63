"""A worker that computes nothing: a running turn gets a token in each step, and stays resident.

`python -m benchmarks.load.fakes --id decode-0 …`, with a worker's options. A token's text is the
time when it was sent, by the machine's monotonic clock: its reader then knows how long it took.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from segue.api.cluster.status import UnitCounts, WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.types import Epoch, Role, WorkerId
from segue.config import read_file, section
from segue.internal.v1 import transfer_pb2
from segue.internal.v1 import worker_pb2 as pb
from segue.internal.v1.worker_pb2_grpc import (
    DecodeWorkerServicer,
    PrefillWorkerServicer,
    add_DecodeWorkerServicer_to_server,
    add_PrefillWorkerServicer_to_server,
)
from segue.model.checkpoint.model_id import model_id
from segue.model.checkpoint.source import resolve_model
from segue.security.config import SecurityConfig
from segue.v1 import session_pb2
from segue.wire.convert.worker import worker_to_wire
from segue.wire.server import Services, serving
from segue.wire.streams.join import stay_joined
from segue.wire.streams.outbox import Outbox

Context = grpc.aio.ServicerContext[Any, Any]
_PAGE_TOKENS = 16
_COUNTS = UnitCounts(total=1_000_000, free=1_000_000)


class FakePrefill(PrefillWorkerServicer):
    def __init__(self, status: WorkerStatus) -> None:
        self._status = pb.StatusResponse(status=worker_to_wire(status))

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return self._status

    async def Turns(
        self, request_iterator: AsyncIterator[pb.TurnCommands], context: Context
    ) -> AsyncIterator[pb.TurnEvents]:
        async for message in request_iterator:
            started = [c for c in message.commands if c.WhichOneof("command") == "prefill"]
            prefilled = pb.PromptPrefilled()
            yield pb.TurnEvents(
                events=[pb.TurnEvent(call=c.call, prefilled=prefilled) for c in started]
            )


class FakeDecode(DecodeWorkerServicer):
    def __init__(self, status: WorkerStatus, step_s: float) -> None:
        self._status = pb.StatusResponse(status=worker_to_wire(status))
        self._step_s = step_s

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return self._status

    async def Turns(
        self, request_iterator: AsyncIterator[pb.TurnCommands], context: Context
    ) -> AsyncIterator[pb.TurnEvents]:
        events: Outbox[pb.TurnEvent] = Outbox()
        started: dict[int, pb.StartTurn] = {}
        running: dict[int, pb.StartTurn] = {}
        listening = asyncio.ensure_future(self._listen(request_iterator, events, started))
        try:
            while not listening.done():
                await asyncio.sleep(self._step_s)
                # A turn that has just started gets its first token in the next step.
                stepped = _step(running)
                running |= started
                started.clear()
                if ready := [*events.take(), *stepped]:
                    yield pb.TurnEvents(events=ready)
        finally:
            listening.cancel()

    async def _listen(
        self,
        commands: AsyncIterator[pb.TurnCommands],
        events: Outbox[pb.TurnEvent],
        started: dict[int, pb.StartTurn],
    ) -> None:
        async for message in commands:
            for command in message.commands:
                if command.WhichOneof("command") != "start":
                    # No client here disconnects before the end.
                    continue
                start = command.start
                if start.WhichOneof("prompt_from") == "writer":
                    ticket = transfer_pb2.Ticket(turn_id=start.turn.turn_id)
                    event = pb.TurnEvent(call=command.call, reserved=pb.Reserved(ticket=ticket))
                else:
                    event = pb.TurnEvent(call=command.call, prefill_started=pb.PrefillStarted())
                events.put(event)
                started[command.call] = start


def _step(running: dict[int, pb.StartTurn]) -> list[pb.TurnEvent]:
    events = []
    for call, start in list(running.items()):
        delta = session_pb2.TokenDelta(token_ids=[1000], text=f" {time.monotonic():.4f}")
        events.append(pb.TurnEvent(call=call, delta=delta))
        start.turn.stop.max_tokens -= 1
        if not start.turn.stop.max_tokens:
            del running[call]
            events.append(pb.TurnEvent(call=call, end=_end(start)))
    return events


def _end(start: pb.StartTurn) -> pb.DecodeEnd:
    """As after a prompt that took a prefill worker 20 ms and its transfer 5 ms, or 10 ms locally:
    otherwise the router would not have it computed locally.
    """
    turn = start.turn
    num_tokens = turn.prefix.num_tokens + len(turn.context) // 4
    kept_tokens = num_tokens // _PAGE_TOKENS * _PAGE_TOKENS
    if start.WhichOneof("prompt_from") == "writer":
        report = transfer_pb2.ShipReport(
            computed_tokens=num_tokens, prefill_s=0.02, transfer_s=0.005, shipped_bytes=250_000
        )
    else:
        report = transfer_pb2.ShipReport(computed_tokens=num_tokens - kept_tokens, prefill_s=0.01)
    return pb.DecodeEnd(
        finish_reason=session_pb2.FINISH_REASON_LENGTH,
        report=report,
        kept_tokens=kept_tokens,
        kept_checkpoint_tokens=kept_tokens,
        kept_states=[kept_tokens],
    )


async def _run(options: argparse.Namespace) -> None:
    role = Role(options.id.split("-")[0])
    folder = resolve_model(options.model, with_weights=False)

    statuses: list[WorkerStatus] = []

    def services_at(address: str) -> Services:
        status = WorkerStatus(
            worker_id=WorkerId(options.id),
            role=role,
            epoch=Epoch(time.time_ns()),
            address=address,
            health=WorkerHealth.READY,
            load=WorkerLoad(pages=_COUNTS, slots=_COUNTS, page_tokens=_PAGE_TOKENS),
        )
        statuses.append(status)
        # They lease nothing and are never drained, so they get no such request.
        if role is Role.PREFILL:
            prefill = FakePrefill(status)  # type: ignore[abstract]
            return [(role, lambda server: add_PrefillWorkerServicer_to_server(prefill, server))]
        decode = FakeDecode(status, options.step_s)  # type: ignore[abstract]
        return [(role, lambda server: add_DecodeWorkerServicer_to_server(decode, server))]

    security = section(read_file(options.config), "security", SecurityConfig).security()
    async with serving("127.0.0.1", 0, services_at, security=security):
        await stay_joined(
            options.router,
            security=security,
            status=lambda: statuses[0],
            model_id=model_id(folder),
            heartbeat_s=0.5,
            on_view=lambda members: None,
            leaving=asyncio.Event(),
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--id", "--model", "--router"):
        parser.add_argument(name)
    parser.add_argument("--config", type=Path)
    # 500 tokens per second for each user.
    parser.add_argument("--step-s", type=float, default=0.002)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_run(parser.parse_args()))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
