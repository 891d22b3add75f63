"""A follower of a worker: `python -m kv_transfer.ranks.follower FD`, started by the leader.

receiving thread   what is quick: what a pass will ship, the start of a handoff
engine             passes, drafts and steps, one after another, as the leader runs them
copying            between the host tier and the device
event loop         ends of handoffs
helpers            checksums of what arrived, and pulls, which queue all at once
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from kv_transfer.config import TransferConfig
from kv_transfer.layout import MemoryMap, RankMemory
from kv_transfer.ranks.starting import keep_to_leaders_cores
from kv_transfer.ticket import Checksums, Ticket, TicketId
from kv_transfer.transport.cache_memory import CacheMemory, checksums_of, memory_on
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import Transport, register_fields
from kv_transfer.writing.outgoing import Outgoing, ShipResult
from kv_transfer.writing.writer import HandoffWriter
from segue.api.types import Epoch, PageId, SlotId, WorkerId
from segue.cache.host.unit_copy import copy_units
from segue.cache.layout import Unit
from segue.engine.batch import Chunk, DraftStart, PrefillChunk
from segue.engine.device.launcher import Launcher, StepRequest
from segue.engine.runner import ModelRunner
from segue.engine.speculation.drafter import Drafter
from segue.parallel.following import Handler, Leader
from segue.parallel.rank import Rank
from segue.process.telemetry import setup_logging
from segue.worker.engine_thread import give_way
from segue.worker.ranks.starting import RankSetup, host_tensors, load_rank

Masks = Mapping[int, Sequence[np.ndarray]]


@dataclass(frozen=True, slots=True)
class _Announced:
    outgoing: Outgoing
    pages: range
    with_slot: bool


class FollowerEngine:
    """Runs what the leader runs. On the engine thread, except where noted."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._drafter: Drafter | None = None
        self._launcher: Launcher | None = None
        self._masks: queue.SimpleQueue[Masks] = queue.SimpleQueue()
        self._announced: list[_Announced] = []

    def announce(self, outgoing: Outgoing, pages: range, with_slot: bool) -> None:
        """For the next pass. On the receiving thread, as `take_announced`."""
        self._announced.append(_Announced(outgoing, pages, with_slot))

    def take_announced(self) -> Sequence[_Announced]:
        announced, self._announced = self._announced, []
        return announced

    def forward(self, chunks: Sequence[Chunk], announced: Sequence[_Announced]) -> None:
        def ship(layer: int) -> None:
            for one in announced:
                one.outgoing.layer_ready(layer, pages=one.pages, with_slot=one.with_slot)

        # Scores are the leader's, but their logits are computed by all.
        scores = any(isinstance(chunk, PrefillChunk) and chunk.scored_ids for chunk in chunks)
        self._runner.forward(
            chunks, on_layer=ship, on_scores=(lambda index, scores: None) if scores else None
        )

    def first_passes(self, passes: Mapping[str, Any]) -> None:
        self._runner.first_passes(**passes)

    def start_drafts(self, starts: Sequence[DraftStart]) -> None:
        self._drafter = self._runner.drafter(starts)

    def draft(self, token_ids: Sequence[int]) -> None:
        assert self._drafter is not None, "the leader tells where to start first"
        self._drafter.step(token_ids)

    def make_launcher(self, sizes: Mapping[str, int]) -> None:
        self._launcher = Launcher.of(self._runner, **sizes)

    @property
    def launcher(self) -> Launcher:
        assert self._launcher is not None, "the leader makes its own first"
        return self._launcher

    def start_row(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        self.launcher.start(*arguments, **options)

    def resume_row(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        self.launcher.resume(*arguments, **options)

    def launch(self, request: StepRequest, waits_for_masks: bool) -> None:
        """Its result is the leader's too, who reads it."""
        find = (lambda _: self._masks.get()) if waits_for_masks else None
        self.launcher.launch(replace(request, find_masks=find))

    def take_masks(self, masks: Masks) -> None:
        """On the receiving thread: the engine's waits for them."""
        self._masks.put(masks)


class FollowerHandoffs:
    """This rank's part of the worker's handoffs."""

    def __init__(self, transport: Transport, memory: CacheMemory, rank: Rank) -> None:
        self._transport = transport
        self._memory = memory
        self._rank = rank
        self._outgoing: dict[TicketId, Outgoing] = {}
        self._computes_checksums = True
        self._writer: HandoffWriter | None = None
        self._memory_map: MemoryMap | None = None

    def serve(self, memory_map: MemoryMap, verify_checksums: bool) -> None:
        """`memory_map`: the whole worker's."""
        self._memory_map = memory_map
        self._writer = HandoffWriter(
            self._transport,
            memory_map,
            memory=self._memory,
            verify_checksums=verify_checksums,
            rank=self._rank,
        )

    @property
    def writer(self) -> HandoffWriter:
        assert self._writer is not None, "the leader sends the memory map first"
        return self._writer

    def start(
        self, ticket: Ticket, reader: MemoryMap, pages: Sequence[PageId], slot: SlotId
    ) -> None:
        self._outgoing[ticket.ticket_id] = self.writer.start(
            ticket, reader, source_pages=pages, source_slot=slot
        )

    def get(self, ticket_id: TicketId) -> Outgoing | None:
        """None once it was finished or stopped."""
        return self._outgoing.get(ticket_id)

    def all_ready(self, ticket_id: TicketId, num_pages: int) -> None:
        if outgoing := self.get(ticket_id):
            outgoing.all_ready(num_pages)

    async def finish(self, ticket_id: TicketId) -> ShipResult:
        """After a failure the leader stops the handoff."""
        result = await self._outgoing[ticket_id].finish()
        del self._outgoing[ticket_id]
        return result

    async def stop(self, ticket_id: TicketId, reason: str) -> None:
        if outgoing := self._outgoing.pop(ticket_id, None):
            await outgoing.stop(reason)

    async def fence(self, ticket_id: TicketId) -> None:
        await self.writer.fence(ticket_id)

    def members_changed(self, alive: Mapping[WorkerId, Epoch]) -> None:
        self.writer.members_changed(alive)

    def checksums(
        self, page_ids: Sequence[PageId], slot_id: SlotId, sources: Sequence[Rank]
    ) -> Checksums:
        assert self._memory_map is not None
        return checksums_of(
            self._memory_map,
            page_ids,
            slot_id,
            self._memory.crcs,
            sources=sources,
            target=self._rank,
        )

    def close(self) -> None:
        self.writer.close()
        self._transport.close()


class Follower:
    """What the leader may call, each on the thread where it belongs."""

    def __init__(self, setup: RankSetup, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rank = setup.rank
        if setup.engine.num_threads:
            torch.set_num_threads(setup.engine.num_threads)
        self._runner = load_rank(setup, ModelRunner)
        self._host = host_tensors(self._runner, setup.engine)
        self._engine = FollowerEngine(self._runner)
        self._engine_thread = ThreadPoolExecutor(1, "engine", give_way, (setup.niceness,))
        self._copying = ThreadPoolExecutor(1, "copying")
        self._helpers = ThreadPoolExecutor(2, "helpers")

    def handlers(self) -> dict[str, Handler]:
        """Before the memory is open to other workers."""
        return {
            "loaded": lambda: None,
            "forward": self._forward,
            "first_passes": _on(self._engine_thread, self._engine.first_passes),
            "drafter": _on(self._engine_thread, self._engine.start_drafts),
            "draft": _on(self._engine_thread, self._engine.draft),
            "launcher": _on(self._engine_thread, self._engine.make_launcher),
            "start_row": _on(self._engine_thread, self._engine.start_row),
            "resume_row": _on(self._engine_thread, self._engine.resume_row),
            "launch": _on(self._engine_thread, self._engine.launch),
            "masks": self._engine.take_masks,
            "copy": self._copy,
        }

    def handlers_of(self, handoffs: FollowerHandoffs) -> dict[str, Handler]:
        return {
            "serve": handoffs.serve,
            "start": handoffs.start,
            "announce": partial(self._announce, handoffs),
            "all_ready": _on(self._helpers, handoffs.all_ready),
            "finish": self._on_loop(handoffs.finish),
            "stop": self._on_loop(handoffs.stop),
            "fence": self._on_loop(handoffs.fence),
            "members_changed": handoffs.members_changed,
            "checksums": _on(self._helpers, handoffs.checksums),
            "close": _on(self._helpers, handoffs.close),
        }

    def open(self, transfer: TransferConfig, host: str) -> tuple[RankMemory, FollowerHandoffs]:
        """Registers this rank's memory. Where all ranks have theirs, the leader tells later."""
        tensors = self._runner.tensors
        transport = open_mooncake(transfer, host=host, device=tensors.device.type)
        fields = list(tensors.fields())
        register_fields(transport, fields)
        memory = RankMemory(
            segment=transport.segment,
            base_addresses=tuple(tensor.data_ptr() for _, tensor in fields),
        )
        return memory, FollowerHandoffs(transport, memory_on(tensors.device), self._rank)

    def _forward(self, chunks: Sequence[Chunk]) -> Future[None]:
        announced = self._engine.take_announced()
        return self._engine_thread.submit(self._engine.forward, chunks, announced)

    def _announce(
        self, handoffs: FollowerHandoffs, ticket_id: TicketId, pages: range, with_slot: bool
    ) -> None:
        if outgoing := handoffs.get(ticket_id):
            self._engine.announce(outgoing, pages, with_slot)

    def _copy(
        self, is_down: bool, unit: Unit, from_units: Sequence[int], to_units: Sequence[int]
    ) -> Future[None]:
        device, host = self._runner.tensors, self._host
        source, target = (device, host) if is_down else (host, device)
        return self._copying.submit(copy_units, source, target, unit, from_units, to_units)

    def _on_loop(self, call: Callable[..., Coroutine[Any, Any, Any]]) -> Handler:
        return lambda *arguments: asyncio.run_coroutine_threadsafe(call(*arguments), self._loop)


def _on(thread: ThreadPoolExecutor, call: Callable[..., Any]) -> Handler:
    return lambda *arguments: thread.submit(call, *arguments)


def follow(leader: Leader, host: str = "") -> None:
    """Serves the leader until it is gone. `host`: this machine's address, if the leader has not
    started this process and may be on another machine."""
    setup: RankSetup = leader.setup()
    if host:
        setup = setup.on(host)
        keep_to_leaders_cores(setup.engine)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="event loop", daemon=True).start()
    follower = Follower(setup, loop)
    handlers = follower.handlers()

    def open_transport(transfer: TransferConfig, leaders_host: str) -> RankMemory:
        memory, handoffs = follower.open(transfer, host or leaders_host)
        handlers.update(follower.handlers_of(handoffs))
        return memory

    handlers["open"] = open_transport
    leader.serve(handlers)


def main() -> None:
    setup_logging("rank")
    # The leader decides when its followers end: it needs them until its turns have ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    follow(Leader(Connection(int(sys.argv[1]))))
    # Threads of native libraries would keep it alive.
    os._exit(0)


if __name__ == "__main__":
    main()
