"""A cluster in this process whose workers start anew after a drain, as under `segue serve`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from decode_worker.__main__ import running as running_decode
from decode_worker.worker import DecodeWorker
from kv_transfer.transport.loopback import LoopbackNetwork
from prefill_worker.__main__ import running as running_prefill
from prefill_worker.worker import PrefillWorker
from router.__main__ import running as running_router
from router.config import RouterConfig
from router.router import Router
from segue.api.cluster.status import WorkerHealth
from segue.api.turn import TokenDelta, TurnEnd
from segue.api.types import SamplingParams, StopConditions, TokenInput
from segue.launch.config import Config
from segue.sdk.client import Client
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import RunningWorker
from tests.cluster.waiting import wait_until_ready

Life = contextlib.AbstractAsyncContextManager[RunningWorker]


@dataclass
class RollingCluster:
    client: Client
    router: Router
    workers: dict[str, DecodeWorker | PrefillWorker] = field(default_factory=dict)
    num_lives: dict[str, int] = field(default_factory=dict)

    async def live(self, name: str, start: Callable[[], Life], stop: asyncio.Event) -> None:
        """One life of a worker after another, until `stop`."""
        while not stop.is_set():
            async with start() as running:
                worker = running.worker
                assert isinstance(worker, DecodeWorker | PrefillWorker)
                self.workers[name] = worker
                self.num_lives[name] = self.num_lives.get(name, 0) + 1
                ends = [asyncio.ensure_future(e.wait()) for e in (stop, running.draining.ended)]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    end.cancel()
                self.check(name)

    def check(self, name: str) -> None:
        """Pages and slots add up, and each has an owner."""
        worker = self.workers[name]
        worker.check_invariants()
        worker.strays().require_none()

    def health(self, name: str) -> WorkerHealth | None:
        """As the router sees it; None if it is not a member."""
        healths = {str(w.worker_id): w.health for w in self.router.membership.workers()}
        return healths.get(name)

    async def until_back(self, name: str, num_lives: int) -> None:
        """Waits until the router knows the worker's next life."""
        async with asyncio.timeout(60):
            while True:
                is_ready = self.health(name) is WorkerHealth.READY
                if self.num_lives[name] > num_lives and is_ready:
                    return
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def rolling_cluster(
    model: Path, config: Config, *, prefill: int, decode: int
) -> AsyncIterator[RollingCluster]:
    open_transport = LoopbackNetwork().open
    stop = asyncio.Event()
    router_config = RouterConfig(port=0, drain_s=1.0)
    async with (
        running_router(router_config, str(model)) as router,
        Client(router.address) as client,
        asyncio.TaskGroup() as tasks,
    ):
        cluster = RollingCluster(client, router.router)

        def starter(name: str) -> Callable[[], Life]:
            options = WorkerOptions(worker_id=name, model=str(model), router_address=router.address)
            common = {
                "engine": config.engine,
                "transfer": config.transfer,
                "open_transport": open_transport,
            }
            if name.startswith("prefill"):
                return lambda: running_prefill(options, prefill=config.prefill, **common)  # type: ignore[arg-type]
            return lambda: running_decode(options, decode=config.decode, **common)  # type: ignore[arg-type]

        names = [f"prefill-{i}" for i in range(prefill)] + [f"decode-{i}" for i in range(decode)]
        for name in names:
            tasks.create_task(cluster.live(name, starter(name), stop))
        try:
            await wait_until_ready(client, len(names))
            yield cluster
        finally:
            stop.set()


@dataclass
class Talk:
    """A session of token ids that grows by its answers and some new tokens."""

    name: str
    seed: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    num_new: int = 20
    max_tokens: int = 24
    salt: str = ""
    history: list[int] = field(default_factory=list)
    answers: list[tuple[int, ...]] = field(default_factory=list)
    ends: list[TurnEnd] = field(default_factory=list)
    current: list[int] = field(default_factory=list)
    """The answer of the turn that runs, so far."""

    def __post_init__(self) -> None:
        self._source = random.Random(self.seed)
        self._say(120)

    def _say(self, num_tokens: int) -> None:
        self.history += [self._source.randrange(5, 290) for _ in range(num_tokens)]

    async def turn(self, client: Client, *, max_tokens: int | None = None) -> TurnEnd:
        self.current = []
        stream = client.stream(
            TokenInput(tuple(self.history)),
            session_id=self.name,
            sampling=self.sampling,
            stop=StopConditions(max_tokens=max_tokens or self.max_tokens, ignore_eos=True),
            cache_salt=self.salt,
        )
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                if isinstance(event, TokenDelta):
                    self.current += event.token_ids
                elif isinstance(event, TurnEnd):
                    self.ends.append(event)
        self.answers.append(tuple(self.current))
        self.history += self.current
        self._say(self.num_new)
        return self.ends[-1]

    async def has_tokens(self, num_tokens: int) -> None:
        """Waits until the turn that runs has this many."""
        async with asyncio.timeout(20):
            while len(self.current) < num_tokens:
                await asyncio.sleep(0.002)


def num_computed(end: TurnEnd) -> int:
    """Prompt tokens that some worker computed."""
    usage = end.usage
    return usage.prompt_tokens - usage.cached_tokens - usage.pulled_tokens
