"""A whole cluster in one process and in virtual time: a router, workers and their network."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import decode_worker.worker
import kv_transfer.peers.calls
import kv_transfer.writing.writer
import prefill_worker.worker
import router.turn.links
import segue.wire.membership_calls
import segue.wire.streams.join
import segue.worker.process.serving
from router.config import RouterConfig
from router.membership.service import MembershipService
from router.metrics import RouterMetrics
from router.router import Router
from router.sessions.prompt import PromptBuilder
from segue.api.errors import StaleEpoch
from segue.api.types import Role, WorkerId
from segue.internal.v1.worker_pb2_grpc import add_MembershipServicer_to_server
from segue.model.checkpoint.generation import GenerationDefaults
from segue.security.config import OPEN, Security
from segue.text.prompt import IdEncoder
from segue.worker.membership.identity import take_identity
from segue.worker.watchdog import EngineStuck
from tests.router.placed import seats
from tests.virtual.channels import Channel
from tests.virtual.clock import VirtualLoop
from tests.virtual.memory import WatchedMemory
from tests.virtual.network import HERE, HandlerServer, Network, Process
from tests.virtual.threads import VirtualEngineLoop, VirtualLane
from tests.virtual.worker import ROUTER, FailedOnCommand, WorkerLife
from tests.workers.fake_runner import LAYOUT, FakeRunner
from tests.workers.two_workers import wrongs

WATCH_S = 0.25
# The longest time until the cluster is at rest, including leases, fences and late messages.
REST_S = 120.0


class Cluster:
    def __init__(self, process: Process, *, num_prefill: int, num_decode: int) -> None:
        """`process`: the router's, in which this task runs."""
        draw = process.draw
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.thread_s = lambda: draw.uniform(0.0, 0.005)
        self.draw = draw
        self.network = Network(draw)
        self.written = WatchedMemory(draw)
        self.lives: dict[WorkerId, WorkerLife | None] = {}
        """None: between two lives."""
        self.exits: list[object] = []
        """Exits of processes that should not have ended."""
        self.unhandled: list[str] = []
        self.clock_ahead_s = 0.0
        """How far all hosts' wall clocks are ahead of the event loop's time."""
        self._ports = itertools.count(1)
        self._roles = {
            WorkerId(f"{role}-{number}"): role
            for role, total in ((Role.PREFILL, num_prefill), (Role.DECODE, num_decode))
            for number in range(total)
        }
        self._ending: set[asyncio.Task[None]] = set()
        self._bears = True
        self.process = process
        self.router = self._new_router()
        self._watching = asyncio.ensure_future(self._watch())

    def _new_router(self) -> Router:
        prompts = PromptBuilder(
            encoder=IdEncoder(),
            config=FakeRunner.config,  # type: ignore[arg-type]  # what a prompt's builder uses
            defaults=GenerationDefaults(),
            model_id=LAYOUT.model_id,
        )
        config = RouterConfig(local_prefill_max_tokens=16, lost_worker_wait_s=5.0)
        clock = asyncio.get_running_loop().time
        made = Router(config, prompts, RouterMetrics(), model_name="sum", clock=clock)
        server = HandlerServer()
        add_MembershipServicer_to_server(MembershipService(made), server)  # type: ignore[arg-type]
        self.network.serve(self.process, server)
        return made

    def restart_router(self, away_s: float) -> bool:
        """Kills the router's process, and starts one at the same address. Returns False if it is
        away already."""
        if self.process.is_dead:
            return False
        self.network.kill(self.process)
        self._in_background(self._bring_router_back(self.router, away_s))
        return True

    async def _bring_router_back(self, dead: Router, away_s: float) -> None:
        """The dead router's remaining tasks end without effect before its process is used again."""
        await asyncio.sleep(away_s)
        await until(lambda: not dead._ongoing._newest, 30.0)
        await dead.close()
        self.process.is_dead = False
        self.router = self._new_router()

    async def start(self) -> None:
        for worker_id in self._roles:
            self.lives[worker_id] = None
        await asyncio.gather(*(self.bear(worker_id) for worker_id in self._roles))
        await until(self.is_whole, 10.0)

    async def bear(self, worker_id: WorkerId) -> None:
        """Returns when the worker lives, unless the cluster closes. Its epoch is what a worker
        process takes."""
        process = Process(worker_id, f"{worker_id}:{next(self._ports)}", self.draw)
        context = contextvars.copy_context()
        context.run(HERE.set, process)

        async def begin() -> None:
            identity = await take_identity(
                worker_id, self._roles[worker_id], [ROUTER], clock_ns=self._clock_ns
            )
            if self._bears:
                self.lives[worker_id] = WorkerLife(identity, process, self.network, self.written)

        await asyncio.get_running_loop().create_task(begin(), context=context)

    def _clock_ns(self) -> int:
        return int((asyncio.get_running_loop().time() + self.clock_ahead_s) * 1e9)

    def leave_process(self, error: BaseException) -> None:
        """Replaces the function of a worker process, which runs here."""
        life = next((one for one in self.alive() if one.process is HERE.get()), None)
        # An engine that fails in two passes one after the other ends its worker too.
        if life is None or not isinstance(error, EngineStuck | StaleEpoch | FailedOnCommand):
            self.exits.append(f"{HERE.get().name} exited: {type(error).__name__}: {error}")
            return
        self.end(life.presence.identity.worker_id, leaves=False, away_s=1.0)

    def end(self, worker_id: WorkerId, *, leaves: bool, away_s: float) -> None:
        """Ends the worker's life. The next one starts `away_s` after its process has ended."""
        life = self.lives[worker_id]
        assert life is not None
        if not leaves:
            # Its death takes effect at once; only closing what is left takes longer.
            self.lives[worker_id] = None
            self._in_background(life.die())
            self._in_background(self._bear_later(worker_id, away_s))
            return

        async def leave() -> None:
            await life.leave()
            if self.lives[worker_id] is life:
                self.lives[worker_id] = None
                await self._bear_later(worker_id, away_s)

        self._in_background(leave())

    def is_whole(self) -> bool:
        """Whether every worker lives, and the router and all workers know it."""
        now = self._lives()
        return len(now) == len(self._roles) and all(v == now for v in self._views().values())

    def _lives(self) -> list[tuple[str, int]]:
        """Two workers that are born at the same moment have equal epochs."""
        identities = [life.presence.identity for life in self.alive()]
        return sorted((str(each.worker_id), int(each.epoch)) for each in identities)

    def _views(self) -> dict[str, list[tuple[str, int]]]:
        """The lives of workers that each process knows."""
        known = {
            "router": [(str(w.worker_id), int(w.epoch)) for w in self.router.membership.workers()]
        }
        for life in self.alive():
            members = life.worker._exchange.members.alive()
            known[str(life.presence.identity.worker_id)] = [
                (str(peer.worker_id), int(peer.epoch)) for peer in members
            ]
        return {name: sorted(lives) for name, lives in known.items()}

    def alive(self) -> list[WorkerLife]:
        return [life for life in self.lives.values() if life is not None]

    def processes(self) -> list[Process]:
        return [self.process, *(life.process for life in self.alive())]

    async def rest(self) -> list[str]:
        """Waits until the cluster is at rest. Returns what is wrong then."""
        # A worker need not know yet that it cannot reach another.
        await until(lambda: not self.network.is_silent(), REST_S)
        with contextlib.suppress(TimeoutError):
            await until(lambda: self.is_whole() and not self.wrongs(), REST_S)
        return self.wrongs()

    def wrongs(self) -> list[str]:
        found = [*self.network.bugs, *map(str, self.exits), *self.unhandled]
        workers = SimpleNamespace(
            network=self.written, workers=[life.worker for life in self.alive()]
        )
        found += wrongs(workers)  # type: ignore[arg-type]  # what it uses of two workers
        turns, admission = self.router._ongoing._newest, self.router._admission
        if turns or admission.num_turns or len(admission.waiting):
            found.append(f"the router has turns: {[*turns]}, {admission.num_turns} were let in")
        if taken := seats(self.router.placing):
            found.append(f"seats are taken: {taken}")
        links = self.router.links
        for link in links._links.values():
            if link._calls._calls:
                found.append(f"{link.name} has calls: {[*link._calls._calls]}")
        if links._ending:
            found.append(f"{len(links._ending)} calls of the router do not end")
        if not self.is_whole():
            found.append(
                f"a worker is not a member everywhere: {self._lives()}, known {self._views()}"
            )
        return found

    async def close(self) -> None:
        self._bears = False
        for life in self.alive():
            self._in_background(life.die())
        self.lives.clear()
        self._watching.cancel()
        await asyncio.sleep(60.0)
        await self.router.close()
        for task in self._ending:
            if not task.done():
                task.cancel()

    async def _bear_later(self, worker_id: WorkerId, away_s: float) -> None:
        await asyncio.sleep(away_s)
        await self.bear(worker_id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._ending.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._ending.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self.unhandled.append(f"a worker did not end: {type(error).__name__}: {error}")

        task.add_done_callback(ended)

    async def _watch(self) -> None:
        while True:
            self.router.watch()
            await asyncio.sleep(WATCH_S)


@contextlib.asynccontextmanager
async def running_cluster(
    seed: int, *, num_prefill: int = 2, num_decode: int = 3
) -> AsyncIterator[Cluster]:
    """A cluster whose members know each other. At its end, nothing is left running."""
    process = Process("router", ROUTER, random.Random(seed))
    HERE.set(process)
    loop = asyncio.get_running_loop()
    with in_virtual_time() as made:
        cluster = Cluster(process, num_prefill=num_prefill, num_decode=num_decode)
        made.append(cluster)
        loop.set_exception_handler(lambda _, about: cluster.unhandled.append(str(about)))
        await cluster.start()
        try:
            yield cluster
        finally:
            await cluster.close()


@contextlib.contextmanager
def in_virtual_time() -> Iterator[list[Cluster]]:
    """Puts virtual threads and channels in place of real ones, for the cluster that is added to the
    list."""
    made: list[Cluster] = []

    def channel_to(address: str, security: Security = OPEN) -> Channel:
        return Channel(made[0].network, address)

    with contextlib.ExitStack() as stack:
        for module, name, virtual in (
            (decode_worker.worker, "EngineLoop", VirtualEngineLoop),
            (prefill_worker.worker, "EngineLoop", VirtualEngineLoop),
            (kv_transfer.writing.writer, "Lane", VirtualLane),
            (router.turn.links, "channel_to", channel_to),
            (kv_transfer.peers.calls, "channel_to", channel_to),
            (segue.wire.streams.join, "channel_to", channel_to),
            (segue.wire.membership_calls, "channel_to", channel_to),
            *(
                (module, "leave_process", lambda error: made[0].leave_process(error))
                for module in (
                    segue.worker.process.serving,
                    decode_worker.worker,
                    prefill_worker.worker,
                )
            ),
            (os, "_exit", lambda code: made[0].exits.append(f"a process exited with {code}")),
        ):
            stack.enter_context(mock.patch.object(module, name, virtual))
        yield made


async def until(is_so: Callable[[], bool], within_s: float) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.5)
