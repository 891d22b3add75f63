"""The common parts of prefill and decode workers: memory, handoffs, heartbeats and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from kv_transfer.exchange import Exchange
from kv_transfer.resources import WorkerResources
from segue.api.cluster.drain import DrainReport, MoveReport
from segue.api.cluster.status import WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import SegueError, Unavailable, UnknownPrefix
from segue.api.prompt import PrefixName, Prompt
from segue.api.types import TurnId
from segue.cache.admission_queue import AdmissionQueue
from segue.cache.host.copying import all_pages
from segue.cache.host.tier import HostTier
from segue.cache.inventory import Inventory
from segue.cache.memory import Strays
from segue.cache.prefix.cache import PrefixCache
from segue.engine.runner import WARM_UP_TOKENS
from segue.process.cores import in_brief_thread
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import OFF, Tracer
from segue.worker.drain import Deadline, MoveSessions
from segue.worker.engine_thread import EngineLoop
from segue.worker.grammars import Grammars
from segue.worker.metrics import WorkerMetrics
from segue.worker.process.serving import Presence
from segue.worker.watchdog import Watchdog

# How long a drain waits for writes in flight after its deadline, and any drain for fences.
_SETTLE_S = 5.0
_ANSWER_S = 1.0
_WARM_UP = "warm-up"
"""Owns the units of the first passes."""
# Without a router there are no members to meet.
_MEMBERS_WAIT_S = 2.0


class RunningTurn(Protocol):
    @property
    def over(self) -> asyncio.Event: ...
    def interrupt(self, error: SegueError) -> None: ...


AnyTurn = TypeVar("AnyTurn", bound=RunningTurn)
Command = TypeVar("Command")


class HandoffWorker(Generic[AnyTurn, Command]):
    """One event loop owns it. A subclass sets `_engine`, runs turns and lists them in `_turns`."""

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
        presence.operators = runner.operators
        presence.cores, presence.num_threads = resources.engine.cores, resources.engine.num_threads
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
        self._waiting_tokens = 0
        self._is_draining = False
        self._worker_metrics = metrics
        self._grammars = Grammars(resources.tokenizer, runner.config.vocab_size)
        self._max_running = resources.engine.max_running
        self._runner, self._pass_tokens = runner, resources.pass_tokens
        self.watchdog = Watchdog(resources.patience)

    async def warm_up(self) -> None:
        """Runs the first passes, and meets the other workers. Call it before the first turn: the
        passes then have the runner to themselves."""
        await self._first_passes()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MEMBERS_WAIT_S):
                await self._exchange.members.known()
        await self._exchange.greet()

    async def _first_passes(self) -> None:
        runner, pass_tokens = self._runner, self._pass_tokens
        memory, page_tokens = self._memory, self.layout.page_tokens
        num_tokens = min(WARM_UP_TOKENS, pass_tokens, memory.pages.total * page_tokens - 1)
        num_pages = num_tokens // page_tokens + 1
        pages, slots = memory.take(num_pages, 1, owner=_WARM_UP)
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
            memory.give_back(pages, slots)

    def find_prefix(self, prefix: PrefixName) -> Prompt:
        """The tokens of a prefix that is cached here. Raises UnknownPrefix."""
        return self._tiers.find(prefix)

    def status(self) -> WorkerStatus:
        owners = self._owners()
        pages, slots = self._memory.counts(owners)
        host_pages, host_slots = self._tier.memory.counts(owners)
        load = WorkerLoad(
            pages=pages,
            slots=slots,
            host_pages=host_pages,
            host_slots=host_slots,
            running_turns=self._num_running,
            waiting_turns=len(self._room),
            waiting_tokens=self._waiting_tokens,
            tokens_per_s=self._worker_metrics.rate.per_second(),
            page_tokens=self.layout.page_tokens,
            max_turns=self._max_running,
            leased_sessions=len(
                self._memory.cache.leases.sessions() | self._tier.cache.leases.sessions()
            ),
        )
        self._worker_metrics.update(
            load, self._memory.cache, self._tier, engine_silent_s=self.watchdog.silent_s
        )
        return self.presence.status(load)

    @property
    def _num_running(self) -> int:
        return len(self._turns)

    async def _load_back(self, prefix: PrefixName) -> None:
        """Loads the host's part of a prefix that another worker pulls, if this revokes no lease."""
        if self._tier.is_enabled:
            with contextlib.suppress(UnknownPrefix):
                tokens = self.find_prefix(prefix)
                await self._tier.load(tokens, all_pages, PrefixCache.make_spare_room)

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        self._exchange.members_changed(workers)

    async def drain(self, until: Deadline, move: MoveSessions | None) -> DrainReport:
        """Takes no more turns, waits for the running ones, and moves its sessions away. When the
        time is up, the turns that still run are interrupted, and their router continues them
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
            num_late = await self._interrupt_turns()
            # The router may answer shortly after the deadline.
            await asyncio.wait({moving}, timeout=until.left_s + _ANSWER_S)
            moves = moving.result() if moving.done() else MoveReport()
        finally:
            moving.cancel()
        # Workers that read from here finish before the memory is freed.
        sending = until.another(max(_SETTLE_S, until.left_s))
        await sending.until(lambda: not self._exchange.is_sending)
        await until.another(_SETTLE_S).until(lambda: not self._exchange.is_receiving)
        return DrainReport.of(moves, ended_turns=num_turns - num_late, moved_turns=num_late)

    async def _move_sessions(self, until: Deadline, move: MoveSessions | None) -> MoveReport:
        """Does nothing on a prefill worker: its cache serves others until it stops."""
        return MoveReport()

    async def _interrupt_turns(self) -> int:
        """Ends all turns, and returns how many there were."""
        turns = list(self._turns.values())
        for turn in turns:
            # Not Cancelled: their clients still want them, so they are placed again.
            turn.interrupt(Unavailable(f"{self.name} stopped; place the turn elsewhere"))
        for turn in turns:
            await turn.over.wait()
        return len(turns)

    def _draining_error(self) -> Unavailable:
        return Unavailable(f"{self.name} is draining; place the turn elsewhere")

    async def close(self) -> None:
        self._grammars.close()
        await self._interrupt_turns()
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
