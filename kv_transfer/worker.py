"""What prefill and decode workers have in common: memory, handoffs, heartbeats and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from kv_transfer.config import TransferConfig
from kv_transfer.exchange import Exchange
from kv_transfer.ranks.starting import opened
from kv_transfer.transport.transport import Endpoint, OpenTransport, open_endpoint
from segue.api.cluster.drain import DrainReport, MoveReport
from segue.api.cluster.status import WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import UnknownPrefix
from segue.api.prompt import PrefixName, Prompt
from segue.api.types import TurnId
from segue.cache.admission_queue import AdmissionQueue
from segue.cache.host.copying import all_pages
from segue.cache.host.tier import HostTier, Tiers
from segue.cache.inventory import Inventory
from segue.cache.layout import CacheLayout
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.strays import Strays
from segue.cache.unit_pool import UnitState
from segue.engine.config import EngineConfig
from segue.engine.device.warm_up import PROMPT_TOKENS
from segue.engine.runner import ModelRunner
from segue.process.cores import in_brief_thread
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import OFF, Tracer
from segue.worker.drain import Deadline, MoveSessions
from segue.worker.engine_thread import EngineLoop
from segue.worker.load import LoadedModel
from segue.worker.membership.identity import Identity
from segue.worker.memory import tiers_of
from segue.worker.metrics import WorkerMetrics
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import Presence
from segue.worker.watchdog import Patience, Watchdog


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResources:
    """What a worker holds before it serves: the model, its memory, and its end of the transport."""

    runner: ModelRunner
    endpoint: Endpoint
    tiers: Tiers
    max_running: int
    verify_checksums: bool = True
    patience: Patience = field(default_factory=Patience)


@contextlib.asynccontextmanager
async def worker_resources(
    loaded: LoadedModel,
    identity: Identity,
    options: WorkerOptions,
    *,
    engine: EngineConfig,
    transfer: TransferConfig,
    eviction_cost: Callable[[CacheLayout], EvictionCost],
    open_transport: OpenTransport,
    pass_tokens: int,
) -> AsyncIterator[WorkerResources]:
    """Allocates the host tier and registers the cache with the transport, until the block ends.
    `pass_tokens`: the most in one pass.

    Raises InvalidConfig.
    """
    runner = loaded.runner
    tiers = await in_brief_thread(
        lambda: tiers_of(loaded, engine, worth=eviction_cost(runner.layout), clock=time.monotonic)
    )
    device = runner.tensors.device.type
    host, followers = options.hosts.announce, loaded.followers
    memories = await in_brief_thread(lambda: opened(followers, transfer, host))
    transport = open_transport(transfer, host=host, device=device)
    with open_endpoint(
        transport,
        runner.tensors,
        worker_id=identity.worker_id,
        epoch=identity.epoch,
        security=options.security,
        layout=runner.layout,
        followers=followers,
        memories=memories,
    ) as endpoint:
        if followers is not None:
            followers.tell("serve", endpoint.memory_map, transfer.verify_checksums)
        yield WorkerResources(
            runner=runner,
            endpoint=endpoint,
            tiers=tiers,
            max_running=loaded.engine.max_running,
            verify_checksums=transfer.verify_checksums,
            patience=_patience(loaded, pass_tokens, transfer),
        )


def _patience(loaded: LoadedModel, pass_tokens: int, transfer: TransferConfig) -> Patience:
    runner, config = loaded.runner, loaded.runner.config
    num_tokens = loaded.sizes.num_pages * runner.layout.page_tokens
    return Patience.of(
        num_params=runner.num_params,
        num_layers=config.num_layers,
        width=config.hidden_size,
        vocab_size=config.vocab_size,
        max_context=min(config.max_position_embeddings, num_tokens),
        pass_tokens=pass_tokens,
        device=runner.tensors.device.type,
        write_s=transfer.transfer_timeout_s,
    )


# How long a drain whose time is up waits for writes in flight, and any drain for fences.
_SETTLE_S = 5.0
_ANSWER_S = 1.0
_WARM_UP = "warm-up"
"""Owns the units of the first passes."""
# Without a router there is nobody to meet.
_MEMBERS_WAIT_S = 2.0


class RunningTurn(Protocol):
    @property
    def over(self) -> asyncio.Event: ...


AnyTurn = TypeVar("AnyTurn", bound=RunningTurn)
Command = TypeVar("Command")


class HandoffWorker(ABC, Generic[AnyTurn, Command]):
    """One event loop owns it. A subclass sets `_engine`, runs turns, and keeps them in `_turns`."""

    _engine: EngineLoop[Command]

    def __init__(
        self,
        presence: Presence,
        resources: WorkerResources,
        metrics: WorkerMetrics,
        *,
        max_waiting: int,
        tracer: Tracer = OFF,
        clock: Clock,
        stepped: Callable[[str, str], None] = lambda left, entered: None,
    ) -> None:
        """`stepped`: see `HandoffReader`."""
        runner, self._tiers = resources.runner, resources.tiers
        self.presence = presence
        self.name = presence.identity.worker_id
        self.layout = runner.layout
        self.model_id = runner.layout.model_id
        self._clock = clock
        self._tracer = tracer
        self._memory = self._tiers.device
        self._room = AdmissionQueue(max_waiting)
        self._tier = HostTier(
            self._tiers, freed=self._room.wake, loaded=metrics.loaded, clock=clock
        )
        self._exchange = Exchange(
            resources.endpoint,
            self._memory,
            address=presence.address,
            vocab_size=runner.config.vocab_size,
            verify_checksums=resources.verify_checksums,
            freed=self._room.wake,
            stepped=stepped,
            clock=clock,
            load=self._load_back,
            tracer=tracer,
        )
        self.inventory = Inventory((self._memory.cache, self._tier.cache))
        self._turns: dict[TurnId, AnyTurn] = {}
        self._is_draining = False
        self._worker_metrics = metrics
        self._max_running = resources.max_running
        self.watchdog = Watchdog(resources.patience)

    async def warm_up(self, runner: ModelRunner, pass_tokens: int) -> None:
        """Runs the first passes, and meets the workers that it will exchange pages with. To be
        called before the first turn: passes then have the runner for themselves. `pass_tokens`: the
        most in one pass."""
        await self._first_passes(runner, pass_tokens)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MEMBERS_WAIT_S):
                await self._exchange.members.known()
        await self._exchange.greet()

    async def _first_passes(self, runner: ModelRunner, pass_tokens: int) -> None:
        memory, page_tokens = self._memory, self.layout.page_tokens
        num_tokens = min(PROMPT_TOKENS, pass_tokens, memory.pages.total * page_tokens - 1)
        num_pages = num_tokens // page_tokens + 1
        pages = memory.pages.take(num_pages, UnitState.WORKING, owner=_WARM_UP)
        slots = memory.slots.take(1, UnitState.WORKING, owner=_WARM_UP)
        run = functools.partial(
            runner.first_passes,
            pages=pages,
            slot=slots[0],
            num_tokens=num_tokens,
            most_tokens=min(pass_tokens, runner.config.max_position_embeddings - 1),
        )
        try:
            await in_brief_thread(run)
        finally:
            memory.pages.give_back(pages, UnitState.WORKING)
            memory.slots.give_back(slots, UnitState.WORKING)

    def find_prefix(self, prefix: PrefixName) -> Prompt:
        """The tokens of a prefix that is cached here. Raises UnknownPrefix."""
        return self._tiers.find(prefix)

    def _status(
        self, *, running_turns: int, waiting_tokens: int, tokens_per_s: float
    ) -> WorkerStatus:
        counts = self._tier.counts(self._owners())
        load = WorkerLoad(
            pages=counts.pages,
            slots=counts.slots,
            host_pages=counts.host_pages,
            host_slots=counts.host_slots,
            running_turns=running_turns,
            waiting_turns=len(self._room),
            waiting_tokens=waiting_tokens,
            tokens_per_s=tokens_per_s,
            page_tokens=self.layout.page_tokens,
            max_turns=self._max_running,
            leased_sessions=len(
                self._memory.cache.leases.sessions() | self._tier.cache.leases.sessions()
            ),
        )
        self._worker_metrics.set_load(load)
        self._worker_metrics.set_engine(self.watchdog.silent_s)
        self._worker_metrics.set_cache(self._memory.cache, self._tier)
        return self.presence.status(load)

    async def _load_back(self, prefix: PrefixName) -> None:
        """Loads what the host has of a prefix that another worker pulls, if no lease is revoked."""
        if self._tier.is_there:
            with contextlib.suppress(UnknownPrefix):
                tokens = self.find_prefix(prefix)
                await self._tier.load(tokens, all_pages, PrefixCache.make_spare_room)

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        self._exchange.members_changed(workers)

    async def drain(self, until: Deadline, move: MoveSessions | None) -> DrainReport:
        """Takes no more turns, waits for the running ones, and moves its sessions away. When the
        time is up, the turns that still run are interrupted, and their router goes on with them
        elsewhere. Returns when nothing runs and no write is in flight here, or a few seconds after
        the deadline.
        """
        self._is_draining = True
        num_turns = len(self._turns)
        # Turns that wait for memory are refused, one after another.
        self._room.wake()
        moving = asyncio.ensure_future(self._move_sessions(until, move))
        try:
            await until.until(lambda: not self._turns)
            late = dict(self._turns)
            self._interrupt_all(late)
            for turn in late.values():
                await turn.over.wait()
            # The router's answer may come a moment after the deadline.
            await asyncio.wait({moving}, timeout=until.left_s + _ANSWER_S)
            moves = moving.result() if moving.done() else MoveReport()
        finally:
            moving.cancel()
        # Those that read from here finish before the memory goes.
        sending = until.another(max(_SETTLE_S, until.left_s))
        await sending.until(lambda: not self._exchange.is_sending)
        await until.another(_SETTLE_S).until(lambda: not self._exchange.is_receiving)
        return DrainReport.of(moves, ended_turns=num_turns - len(late), moved_turns=len(late))

    async def _move_sessions(self, until: Deadline, move: MoveSessions | None) -> MoveReport:
        """A prefill worker has none: its cache serves others for as long as it lives."""
        return MoveReport()

    @abstractmethod
    def _interrupt_all(self, turns: Mapping[TurnId, AnyTurn]) -> None:
        """Ends these turns with an error."""

    async def close(self) -> None:
        turns = dict(self._turns)
        self._interrupt_all(turns)
        for turn in turns.values():
            await turn.over.wait()
        await self._engine.close()
        await self._exchange.close()
        await self._tier.close()

    def _owners(self) -> set[str]:
        """The owners of units in use that still exist and will free them."""
        owners = {*self._turns, *self._exchange.reader.owners(), *self._tier.owners()}
        return owners | {_WARM_UP} if self.presence.health is WorkerHealth.WARMING else owners

    def strays(self) -> Strays:
        return self._memory.strays(self._owners())

    def check_invariants(self) -> None:
        self._memory.check_invariants()
        self._tier.check_invariants()
