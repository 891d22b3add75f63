"""A prefill and a decode worker in one process, without gRPC, Mooncake and a model."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from typing import Any

from decode_worker.config import DecodeConfig
from decode_worker.metrics import DecodeMetrics
from decode_worker.turn import MemoryReserved, TurnNews
from decode_worker.worker import DecodeWorker
from kv_transfer.config import TransferConfig
from kv_transfer.layout import MemoryMap
from kv_transfer.resources import WorkerResources
from kv_transfer.ticket import PeerIdentity, Ticket
from kv_transfer.transport.cache_memory import HostMemory
from kv_transfer.transport.loopback import LoopbackNetwork
from kv_transfer.transport.transport import Endpoint, open_endpoint
from kv_transfer.writing.plan import Fragment
from prefill_worker.config import PrefillConfig
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.worker import PrefillWorker
from segue.api.cluster.status import UnitCounts
from segue.api.errors import SegueError
from segue.api.prompt import Prompt
from segue.api.turn import PrefixHolder, PromptLogprobs, TokenDelta, TurnResult, TurnSpec
from segue.api.types import Epoch, Role, Sampling, SessionId, StopRules, TurnId, WorkerId
from segue.cache.host.tier import Tiers
from segue.cache.layout import Unit
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import cost_to_prefill
from segue.cache.unit_pool import UnitState
from segue.engine.config import EngineConfig
from segue.worker.membership.identity import Identity
from segue.worker.process.serving import Presence
from tests.workers.fake_runner import LAYOUT, PAGE_TOKENS, FakeRunner, Gate
from tests.workers.wires import Wires

NUM_PAGES, NUM_SLOTS = 24, 8
NUM_ANSWERED = 3
PREFILL, DECODE = WorkerId("prefill-0"), WorkerId("decode-0")


class GatedMemory(HostMemory):
    """Memory whose checksums wait while the gate is closed."""

    def __init__(self) -> None:
        self.gate = Gate()

    def crc32(self, address: int, num_bytes: int) -> int:
        self.gate.pass_through()
        return super().crc32(address, num_bytes)


class WatchedNetwork(LoopbackNetwork):
    """Detects writes into memory that is not reserved for a handoff."""

    def __init__(self) -> None:
        super().__init__()
        self.memories: dict[str, tuple[MemoryMap, Memory]] = {}
        self.wrong_writes: list[str] = []

    def move(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        self._watch(target_segment, fragments)
        try:
            super().move(target_segment, fragments)
        finally:
            # It may have been held in the meantime.
            self._watch(target_segment, fragments)

    def _watch(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        memory_map, memory = self.memories[target_segment]
        for fragment, region in itertools.product(fragments, memory_map.regions()):
            units = memory.pages if region.field.unit is Unit.PAGE else memory.slots
            offset = fragment.target_address - region.base_address
            if 0 <= offset < region.num_bytes:
                first = offset // region.field.unit_bytes
                for unit in range(first, first + fragment.num_bytes // region.field.unit_bytes):
                    state = units.state_of(unit)  # type: ignore[arg-type]  # either id
                    if state not in (UnitState.RESERVED, UnitState.QUARANTINED):
                        self.wrong_writes.append(f"{region.field.unit} {unit} is {state}")


class ManualClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def presence_of(worker_id: WorkerId, role: Role) -> Presence:
    identity = Identity(worker_id=worker_id, role=role, epoch=Epoch(1))
    return Presence(identity=identity, address=f"{worker_id}:1", metrics_address="")


class TwoWorkers:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.clock = ManualClock()
        self.network = WatchedNetwork()
        self.wires = Wires()
        self.runners: dict[WorkerId, FakeRunner] = {}
        self.memories: dict[WorkerId, GatedMemory] = {}
        self._stack = stack
        self._cut: dict[str, list[range]] = {}
        self.prefill = PrefillWorker(
            presence_of(PREFILL, Role.PREFILL),
            self._resources(PREFILL),
            PrefillConfig(chunk_tokens=2 * PAGE_TOKENS),
            PrefillMetrics(),
            clock=self.clock,
        )
        self.decode = DecodeWorker(
            presence_of(DECODE, Role.DECODE),
            self._resources(DECODE),
            DecodeConfig(max_drafts=0),
            DecodeMetrics(),
            clock=self.clock,
        )
        self.workers: tuple[PrefillWorker | DecodeWorker, ...] = (self.prefill, self.decode)
        self.wires.exchanges = {w.name: w._exchange for w in self.workers}
        for worker in self.workers:
            memory_map = worker._exchange.reader.memory_map
            self.network.memories[memory_map.segment] = (memory_map, worker._memory)
        self.see_members()

    def _resources(self, worker_id: WorkerId) -> WorkerResources:
        runner = self.runners[worker_id] = FakeRunner(num_pages=NUM_PAGES, num_slots=NUM_SLOTS)
        checksums = self.memories[worker_id] = GatedMemory()
        transport = self.network.open(TransferConfig(), host="", device="cpu")
        endpoint: Endpoint = self._stack.enter_context(
            open_endpoint(transport, runner.tensors, worker_id=worker_id, epoch=Epoch(1))
        )
        worth = cost_to_prefill(LAYOUT, float)

        def memory(num_pages: int, num_slots: int) -> Memory:
            return Memory.of(
                num_pages=num_pages,
                num_slots=num_slots,
                page_tokens=PAGE_TOKENS,
                worth=worth,
                clock=self.clock,
            )

        return WorkerResources(
            runner=runner,  # type: ignore[arg-type]  # what a worker uses of one
            endpoint=replace(endpoint, memory=checksums, peers=self.wires.peers_of(worker_id)),
            tiers=Tiers(
                device=memory(NUM_PAGES, NUM_SLOTS),
                host=memory(0, 0),
                layout=LAYOUT,
                down=lambda *_: None,
                up=lambda *_: None,
            ),
            engine=EngineConfig(max_running=4),
            pass_tokens=2 * PAGE_TOKENS,
        )

    def see_members(self, *absent: WorkerId) -> None:
        """Sets the router's view to all workers except these."""
        seen = [w.status() for w in self.workers if w.name not in absent]
        for worker in self.workers:
            worker.members_changed(seen)

    def cut_off(self, worker_id: WorkerId) -> None:
        """Cuts a worker off: no call from or to it arrives, and no write to it."""
        self.wires.cut_off.add(worker_id)
        segment = self.wires.exchanges[worker_id].reader.memory_map.segment
        self._cut[segment] = self.network.regions.pop(segment)

    def mend(self) -> None:
        """Undoes every cut, hold and loss."""
        self.network.regions.update(self._cut)
        self._cut.clear()
        self.wires.cut_off.clear()
        self.wires.dead.clear()
        self.wires.faults.clear()
        self.let_go()
        self.see_members()

    def let_go(self) -> None:
        """Opens all gates."""
        self.network.release()
        for gated in (*self.runners.values(), *self.memories.values()):
            gated.gate.open()

    async def close(self) -> None:
        for worker in self.workers:
            await worker.close()


def spec(name: str, prompt: Sequence[int]) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId(name),
        session_id=SessionId(""),
        context=Prompt(prompt),
        sampling=Sampling(),
        stop=StopRules(max_tokens=NUM_ANSWERED),
    )


class ShippedTurn:
    """One turn on both workers, with the router's part: a failure on one worker stops the turn on
    the other.
    """

    def __init__(
        self,
        workers: TwoWorkers,
        turn: TurnSpec,
        holder: PrefixHolder | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        self.workers = workers
        self.turn = turn
        self.holder = holder
        self.timeout_s = timeout_s
        self.tokens: tuple[int, ...] = ()
        self.result: TurnResult | None = None
        self.prompt_logprobs: PromptLogprobs | None = None
        self.errors: list[BaseException] = []
        self.tickets: list[Ticket] = []
        self.router_is_slow = False
        self.is_left_behind = False
        self.at_decode = Watched()
        self.at_prefill = Watched()

    def start(self) -> None:
        presence = self.workers.prefill.presence
        writer = PeerIdentity(
            worker_id=presence.identity.worker_id,
            epoch=presence.identity.epoch,
            address=presence.address,
        )
        answering = self.workers.decode.answer(
            self.turn, writer, self._on_news, timeout_s=self.timeout_s
        )
        self.at_decode.run(answering, self._decode_failed)

    def is_over(self, *, ignoring: WorkerId | None = None) -> bool:
        """Whether no worker runs the turn, and no memory waits for a fence."""
        name = self.turn.turn_id
        return (
            self.at_decode.is_over
            and self.at_prefill.is_over
            and not any(
                name in worker._turns or name in worker._exchange.reader.owners()
                for worker in self.workers.workers
                if worker.name != ignoring
            )
        )

    def _on_news(self, news: TurnNews) -> None:
        match news:
            case MemoryReserved(ticket):
                self.tickets.append(ticket)
                self.at_prefill.run(self._prefill(ticket), self._prefill_failed)
            case TokenDelta():
                self.tokens += news.token_ids
            case TurnResult():
                self.result = news
            case SegueError():
                self.errors.append(news)

    async def _prefill(self, ticket: Ticket) -> None:
        self.prompt_logprobs = await self.workers.prefill.prefill(self.turn, ticket, self.holder)

    def _decode_failed(self, error: BaseException) -> None:
        self.errors.append(error)
        self.is_left_behind = self.turn.turn_id in self.workers.decode._turns
        if not self.router_is_slow:
            self.at_prefill.cancel()

    def _prefill_failed(self, error: BaseException) -> None:
        self.errors.append(error)
        self.at_decode.cancel()


class Watched:
    """A coroutine in a task, with an action at its n-th suspension."""

    def __init__(self) -> None:
        self.num_suspensions = 0
        self.has_intruded = False
        self._at, self._intrude = 0, lambda: None
        self._task: asyncio.Task[None] | None = None
        self._has_ended = False

    def intrude_at(self, number: int, intrude: Callable[[], None]) -> None:
        self._at, self._intrude = number, intrude

    def run(self, work: Coroutine[Any, Any, None], failed: Callable[[BaseException], None]) -> None:
        async def counted() -> None:
            await self._count(work)

        def ended(task: asyncio.Task[None]) -> None:
            # It may have been cancelled before its first step.
            work.close()
            self._has_ended = True
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                failed(error)
            assert error is None or isinstance(error, SegueError | asyncio.CancelledError)

        self._task = asyncio.ensure_future(counted())
        self._task.add_done_callback(ended)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def is_over(self) -> bool:
        return self._task is None or self._has_ended

    @types.coroutine
    def _count(self, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        error: BaseException | None = None
        while True:
            try:
                waited = work.send(None) if error is None else work.throw(error)
            except StopIteration:
                return
            self.num_suspensions += 1
            if self.num_suspensions == self._at:
                self.has_intruded = True
                self._intrude()
            try:
                yield waited
                error = None
            except BaseException as thrown:
                error = thrown


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.0002)


def wrongs(workers: TwoWorkers) -> list[str]:
    """What is wrong when no turn runs."""
    found = list(workers.network.wrong_writes)
    for worker in workers.workers:
        worker.check_invariants()
        if strays := str(worker.strays()):
            found.append(f"{worker.name} has strays: {strays}")
        for what, counts in (
            ("pages", worker._memory.pages.counts()),
            ("slots", worker._memory.slots.counts()),
        ):
            idle = UnitCounts(total=counts.total, free=counts.free, cached=counts.cached)
            if counts != idle:
                found.append(f"{worker.name}'s {what} are not idle: {counts}")
        cache = worker._memory.cache
        if cache.pins.num_held_nodes or cache.pins.num_held_checkpoints:
            found.append(f"{worker.name} holds a prefix")
        if worker._turns:
            found.append(f"{worker.name} has turns: {list(worker._turns)}")
        if active := worker._exchange.writer._active:
            found.append(f"{worker.name} still ships {list(active)}")
    return found
