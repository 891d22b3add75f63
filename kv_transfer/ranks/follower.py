"""A follower of a worker: `python -m kv_transfer.ranks.follower FD`, started by the leader.

receiving thread   quick calls: announces what a pass will ship, starts a handoff
engine             passes, drafts and steps, one after another, as the leader runs them
copying            copies between the host tier and the device
event loop         finishes, stops and fences handoffs
helpers            checksums of arrived bytes, and pulls, which queue everything at once
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from kv_transfer.config import TransferConfig
from kv_transfer.layout import MemoryMap, RankMemory
from kv_transfer.ranks.follower_engine import FollowerEngine
from kv_transfer.ranks.follower_handoffs import FollowerHandoffs
from kv_transfer.ranks.starting import keep_to_leaders_cores
from kv_transfer.ticket import TicketId
from kv_transfer.transport.cache_memory import memory_on
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import Transport, register_fields
from segue.cache.layout import Unit
from segue.cache.tensors import copy_units
from segue.engine.batch import Chunk
from segue.engine.runner import ModelRunner
from segue.parallel.following import Handler, Leader
from segue.process.telemetry import setup_logging
from segue.worker.engine_thread import give_way
from segue.worker.ranks.starting import RankSetup, host_tensors, load_rank


class Follower:
    """The leader's calls, each on the thread where it belongs."""

    def __init__(self, setup: RankSetup, loop: asyncio.AbstractEventLoop, host: str) -> None:
        self._loop = loop
        self._own_host = host
        self._rank = setup.rank
        if setup.engine.num_threads:
            torch.set_num_threads(setup.engine.num_threads)
        self._runner = load_rank(setup, ModelRunner)
        self._host = host_tensors(self._runner, setup.engine)
        self._engine = engine = FollowerEngine(self._runner)
        self._engine_thread = ThreadPoolExecutor(1, "engine", give_way, (setup.niceness,))
        self._copying = ThreadPoolExecutor(1, "copying")
        self._helpers = ThreadPoolExecutor(2, "helpers")
        self.handlers: dict[str, Handler] = {
            "loaded": lambda: None,
            "open": self._open,
            "forward": self._forward,
            "first_passes": _on(self._engine_thread, engine.first_passes),
            "drafter": _on(self._engine_thread, engine.start_drafts),
            "draft": _on(self._engine_thread, engine.draft),
            "launcher": _on(self._engine_thread, engine.make_launcher),
            "start_row": _on(self._engine_thread, engine.start_row),
            "resume_row": _on(self._engine_thread, engine.resume_row),
            "launch": _on(self._engine_thread, engine.launch),
            "masks": engine.take_masks,
            "copy": self._copy,
        }

    def _open(self, transfer: TransferConfig, leaders_host: str) -> RankMemory:
        """Registers this rank's memory. `serve` follows once all ranks have done so."""
        tensors = self._runner.tensors
        host = self._own_host or leaders_host
        transport = open_mooncake(transfer, host=host, device=tensors.device.type)
        self.handlers["serve"] = partial(self._serve, transport)
        return register_fields(transport, tensors.fields())

    def _serve(self, transport: Transport, memory_map: MemoryMap, verify_checksums: bool) -> None:
        memory = memory_on(self._runner.tensors.device)
        handoffs = FollowerHandoffs(transport, memory, self._rank, memory_map, verify_checksums)
        self.handlers |= {
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
    """Serves the leader until it is gone. `host`: this machine's address, if this process is not a
    child of the leader and may be on another machine."""
    setup: RankSetup = leader.setup()
    if host:
        setup = setup.on(host)
        keep_to_leaders_cores(setup.engine)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="event loop", daemon=True).start()
    leader.serve(Follower(setup, loop, host).handlers)


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
