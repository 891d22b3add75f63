"""One life of a worker in a virtual cluster: the real worker, on a fake model and transport."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading

from decode_worker.config import DecodeConfig
from decode_worker.metrics import DecodeMetrics
from decode_worker.worker import DecodeWorker
from kv_transfer.config import TransferConfig
from kv_transfer.resources import WorkerResources
from kv_transfer.transport.transport import open_endpoint
from prefill_worker.config import PrefillConfig
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.worker import PrefillWorker
from segue.api.cluster.status import WorkerHealth
from segue.api.types import Role
from segue.cache.host.tier import Tiers
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import cost_to_prefill
from segue.cache.tensors import CacheTensors, copy_units
from segue.engine.config import EngineConfig
from segue.wire.membership_calls import move_sessions
from segue.worker.drain import WorkerDrain
from segue.worker.membership.identity import Identity
from segue.worker.membership.joining import stay_joined_to
from segue.worker.process.serving import Presence, audit_when_idle, exit_on_failure
from segue.worker.watchdog import Patience, end_when_stuck
from tests.virtual.memory import WatchedMemory
from tests.virtual.network import HandlerServer, Network, Process
from tests.virtual.threads import sleep_in_thread, stand_still_if_stuck
from tests.workers.fake_runner import LAYOUT, PAGE_TOKENS, FakeRunner

ROUTER = "router:1"
NUM_PAGES, NUM_SLOTS = 72, 24
NUM_HOST_PAGES, NUM_HOST_SLOTS = 40, 8
HEARTBEAT_S = 0.5
MAX_RUNNING = 4
PATIENCE = Patience(pass_s=4.0, shipping_s=6.0)


class FailedOnCommand(RuntimeError):
    """A pass that a fault has made fail."""


class SlowLayers:
    """In place of a runner's gate: time passes before each layer, and a pass can fail."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.num_failing = 0
        """Passes that fail next."""

    def pass_through(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            sleep_in_thread(self._process.draw.uniform(0.0005, 0.01))
            stand_still_if_stuck()
        if self.num_failing:
            self.num_failing -= 1
            raise FailedOnCommand


class WorkerLife:
    """Make it in a context whose `HERE` is `process`."""

    def __init__(
        self,
        identity: Identity,
        process: Process,
        network: Network,
        written: WatchedMemory,
    ) -> None:
        self.process = process
        self.is_leaving = False
        self._network = network
        self._leaving = asyncio.Event()
        self._stack = contextlib.ExitStack()
        self._written = written
        self.runner = FakeRunner(num_pages=NUM_PAGES, num_slots=NUM_SLOTS)
        self.layers = SlowLayers(process)
        self.runner.gate = self.layers  # type: ignore[assignment]
        self.presence = Presence(identity=identity, address=process.address, metrics_address="")
        self.worker = self._worker(identity.role, self._resources(identity))
        self._count_no_silence_while_stopped()
        server = HandlerServer()
        for _, add in self.worker.services():
            add(server)  # type: ignore[arg-type]  # what adding a service uses of a server
        network.serve(process, server)
        self._draining = WorkerDrain(
            self.worker.drain,
            functools.partial(move_sessions, [ROUTER], identity.worker_id, identity.epoch),
            default_s=5.0,
            started=self._drain,
            clock=asyncio.get_running_loop().time,
        )
        watching = end_when_stuck(self.worker.watchdog, self.presence)
        works = self._join(), self._audit(), watching
        self._tasks = [asyncio.ensure_future(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(exit_on_failure)

    def _worker(self, role: Role, resources: WorkerResources) -> PrefillWorker | DecodeWorker:
        clock = asyncio.get_running_loop().time
        if role is Role.PREFILL:
            config = PrefillConfig(chunk_tokens=2 * PAGE_TOKENS)
            return PrefillWorker(self.presence, resources, config, PrefillMetrics(), clock=clock)
        decode = DecodeConfig(max_drafts=0, lease_s=20.0)
        return DecodeWorker(self.presence, resources, decode, DecodeMetrics(), clock=clock)

    def _resources(self, identity: Identity) -> WorkerResources:
        transport = self._written.open(TransferConfig(), host="", device="cpu")
        endpoint = self._stack.enter_context(
            open_endpoint(
                transport,
                self.runner.tensors,
                worker_id=identity.worker_id,
                epoch=identity.epoch,
            )
        )
        device = self.runner.tensors
        host = CacheTensors.allocate(
            LAYOUT, num_pages=NUM_HOST_PAGES, num_slots=NUM_HOST_SLOTS, device="cpu"
        )
        tiers = Tiers(
            device=_memory(NUM_PAGES, NUM_SLOTS),
            host=_memory(NUM_HOST_PAGES, NUM_HOST_SLOTS),
            layout=LAYOUT,
            down=functools.partial(copy_units, device, host),
            up=functools.partial(copy_units, host, device),
        )
        self._written.memories[transport.segment] = endpoint.memory_map, tiers.device
        return WorkerResources(
            runner=self.runner,  # type: ignore[arg-type]  # what a worker uses of one
            endpoint=endpoint,
            tiers=tiers,
            engine=EngineConfig(max_running=MAX_RUNNING),
            pass_tokens=2 * PAGE_TOKENS,
            patience=PATIENCE,
        )

    def _count_no_silence_while_stopped(self) -> None:
        """A stopped process does not look at its engine either, but its tasks run here."""
        watchdog, loop = self.worker.watchdog, asyncio.get_running_loop()
        tick = watchdog.tick

        def tick_unless_stopped(elapsed_s: float) -> None:
            if loop.time() >= self.process.frozen_until:
                tick(elapsed_s)

        watchdog.tick = tick_unless_stopped  # type: ignore[method-assign]  # see above

    async def _join(self) -> None:
        await stay_joined_to(
            [ROUTER],
            status=self.worker.status,
            model_id=self.worker.model_id,
            heartbeat_s=HEARTBEAT_S,
            on_members=self.worker.members_changed,
            leaving=self._leaving,
            kept=self.worker.inventory.read,
        )

    async def _audit(self) -> None:
        await audit_when_idle(self.worker, period_s=5.0)

    async def _drain(self) -> None:
        if self.presence.health is WorkerHealth.READY:
            self.presence.health = WorkerHealth.DRAINING

    async def die(self) -> None:
        """The process dies. What is left of it closes without effect."""
        self._network.kill(self.process)
        self._stack.close()
        for task in self._tasks:
            task.cancel()
        await self.worker.close()

    async def leave(self) -> None:
        """The end of `serving_worker`."""
        await self._draining.ask(self.process.draw.uniform(0.0, 5.0), move_sessions=True)
        self._leaving.set()
        await asyncio.wait({self._tasks[0]}, timeout=2.0)
        for task in self._tasks:
            task.cancel()
        await self.worker.close()
        self._network.kill(self.process)
        self._stack.close()


def _memory(num_pages: int, num_slots: int) -> Memory:
    return Memory.of(
        num_pages=num_pages,
        num_slots=num_slots,
        page_tokens=PAGE_TOKENS,
        worth=cost_to_prefill(LAYOUT, float),
        clock=asyncio.get_running_loop().time,
    )
