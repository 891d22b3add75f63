"""Routers that die, and several routers before the same workers. Routers are processes here."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from decode_worker.__main__ import running as running_decode
from kv_transfer.transport.loopback import LoopbackNetwork
from prefill_worker.__main__ import running as running_prefill
from segue.api.cluster.status import WorkerHealth
from segue.api.errors import SegueError
from segue.api.turn import FinishReason, TokenDelta, TurnEnd
from segue.api.types import (
    ChatInput,
    Message,
    SamplingParams,
    StopConditions,
    TokenInput,
    TurnInput,
)
from segue.launch.config import Config
from segue.sdk.client import Answer, Client
from segue.wire.server import free_port
from segue.worker.process.options import WorkerOptions
from tests.cluster.conftest import ENGINE
from tests.cluster.growing_session import TurnRecord
from tests.cluster.waiting import is_idle, wait_until_idle, wait_until_ready

WORKERS = ("prefill-0", "decode-0", "decode-1")
GREEDY = SamplingParams(temperature=0)
ANSWER = StopConditions(max_tokens=30, ignore_eos=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class RouterProcess:
    """A router on a port of its own, which it keeps."""

    model: Path
    log: Path
    port: int = field(default_factory=lambda: free_port("127.0.0.1", 0))
    popen: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "router", "--model", str(self.model)]
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen([*command, "--port", str(self.port)], stderr=log)

    def kill(self) -> None:
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()

    def stop(self) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            self.popen.wait(20)


@contextlib.contextmanager
def routers(model: Path, folder: Path, count: int) -> Iterator[list[RouterProcess]]:
    started = [RouterProcess(model, folder / f"router-{index}.log") for index in range(count)]
    try:
        for router in started:
            router.start()
        yield started
    finally:
        for router in started:
            router.kill()


@contextlib.asynccontextmanager
async def workers_of(model: Path, addresses: list[str]) -> AsyncIterator[dict[str, Any]]:
    """One prefill and two decode workers in this process, which end before their routers."""
    network, config = LoopbackNetwork(), Config(engine=ENGINE)
    workers: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name in WORKERS:
            options = WorkerOptions(
                worker_id=name, model=str(model), router_address=",".join(addresses)
            )
            parts: dict[str, Any] = {"engine": ENGINE, "transfer": config.transfer}
            if name.startswith("prefill"):
                start: Any = running_prefill
                parts["prefill"] = config.prefill
            else:
                start = running_decode
                parts["decode"] = config.decode
            workers[name] = await stack.enter_async_context(
                start(options, open_transport=network.open, **parts)
            )
        yield workers
        for running in workers.values():
            running.worker.check_invariants()
            running.worker.strays().require_none()


async def is_whole(client: Client) -> None:
    """Returns once the router answers and all workers are ready there."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(SegueError):
                await wait_until_ready(client, len(WORKERS))
                return
            await asyncio.sleep(0.05)


async def knows(client: Client, session_id: str) -> None:
    """Returns once the router has a report of the session."""
    async with asyncio.timeout(20):
        while session_id not in {one.session_id for one in await client.sessions()}:
            await asyncio.sleep(0.02)


async def until_reported() -> None:
    """Workers report every 0.1 s."""
    await asyncio.sleep(0.3)


def ids(tokens: Sequence[int]) -> TokenInput:
    return TokenInput(tuple(tokens))


async def generate(client: Client, spoken: TurnInput, **options: Any) -> Answer:
    return await client.generate(spoken, sampling=GREEDY, stop=ANSWER, timeout_s=60, **options)


@dataclass
class Talk:
    """A conversation of one kind: its prompt grows by each answer and something new."""

    kind: str
    name: str
    seed: int
    first_tokens: int = 600
    records: list[TurnRecord] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._source = random.Random(self.seed)
        self._say(self.first_tokens)

    def _say(self, num_tokens: int) -> None:
        """What the user adds."""
        if self.kind == "chat":
            words = " ".join(str(self._source.randrange(100)) for _ in range(num_tokens // 3))
            self.messages.append(Message(role="user", content=words))
        else:
            self.tokens += [self._source.randrange(5, 290) for _ in range(num_tokens)]

    async def turn(self, client: Client) -> TurnEnd:
        prompt = list(self.tokens)
        if self.kind == "chat":
            chat = ChatInput(messages=tuple(self.messages))
            # As the gateway sends it for a client that has no session.
            answer = await generate(client, chat, session_hint="")
        else:
            answer = await generate(client, ids(self.tokens), session_id=self.name)
        self.records.append(TurnRecord(prompt, list(answer.token_ids), answer.end))
        self.messages.append(Message(role="assistant", content=answer.text))
        self.tokens += answer.token_ids
        self._say(30)
        return answer.end

    async def check_answer(self, client: Client) -> None:
        """The last answer is the same if nothing of its prompt is cached."""
        last = self.records[-1]
        afresh = await generate(client, ids(last.prompt), cache_salt=f"afresh {self.seed}")
        assert afresh.end.usage.cached_tokens == 0
        assert list(afresh.token_ids) == last.answer

    @property
    def last_computed(self) -> int:
        """Prompt tokens that the last turn computed."""
        usage = self.records[-1].end.usage
        return usage.prompt_tokens - usage.cached_tokens - usage.pulled_tokens

    def check_last(self) -> None:
        """The last turn computed only what is new, on the worker that has the session."""
        before, last = self.records[-2].end, self.records[-1].end
        new = last.usage.prompt_tokens - before.usage.prompt_tokens
        usage = last.usage
        # States and pages are kept at page ends.
        assert self.last_computed <= new + 16, (self.kind, usage)
        assert usage.prompt_tokens - usage.resident_tokens <= new + 16, (self.kind, usage)
        assert last.decode_worker == before.decode_worker, self.kind


@dataclass
class TwoRouters:
    routers: list[RouterProcess]
    clients: list[Client]
    """One for each router."""
    workers: dict[str, Any]

    async def are_whole(self) -> None:
        for client in self.clients:
            await is_whole(client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TwoRouters]:
    with routers(demo, tmp_path_factory.mktemp("routers"), 2) as started:
        addresses = [router.address for router in started]
        async with (
            workers_of(demo, addresses) as workers,
            Client(addresses[0]) as one,
            Client(addresses[1]) as two,
        ):
            made = TwoRouters(started, [one, two], workers)
            await made.are_whole()
            yield made
            status = await wait_until_idle(two)
        for router in started:
            router.stop()
    assert is_idle(status), status


async def test_a_restarted_router_finds_what_its_workers_hold(cluster: TwoRouters) -> None:
    talks = [Talk("session", "s", 1), Talk("raw", "", 2), Talk("chat", "", 3)]
    router, client = cluster.routers[0], cluster.clients[0]
    for talk in talks:
        await talk.turn(client)
        await talk.turn(client)

    router.kill()
    router.start()
    await is_whole(client)
    await knows(client, "s")

    for talk in talks:
        await talk.turn(client)
        talk.check_last()
    # The lease is known too: the session may pause, and be released.
    assert await client.renew_session("s", lease_s=5.0) == 5.0
    assert await client.release_session("s")
    for talk in talks[:2]:
        await talk.check_answer(client)


async def test_any_router_continues_any_session(cluster: TwoRouters) -> None:
    talk = Talk("session", "any", 4)
    for index in range(4):
        client = cluster.clients[index % 2]
        await talk.turn(client)
        await until_reported()
        if index:
            talk.check_last()
            # No luck: the router knew what it would find.
            expected = (await client.explain("any")).chosen
            assert expected.computed_tokens == talk.last_computed

    await talk.check_answer(cluster.clients[0])
    # What one router releases, the other one no longer lists as leased.
    assert await cluster.clients[0].release_session("any")


async def test_two_routers_may_run_the_same_turn_of_a_session(cluster: TwoRouters) -> None:
    """As after a router has lost its client, which asks the other one."""
    talk = Talk("session", "both", 5)

    answers = await asyncio.gather(
        *(
            generate(client, ids(talk.tokens), session_id=talk.name, turn_id="same")
            for client in cluster.clients
        )
    )

    assert answers[0].token_ids == answers[1].token_ids


async def test_one_turn_id_on_two_routers_is_two_turns(cluster: TwoRouters) -> None:
    """Different prompts under one id, in one session: each gets its own answer."""
    prompts = [ids(Talk("session", f"talk-{seed}", seed).tokens) for seed in (5, 6)]

    def answered(turn_ids: Sequence[str]) -> Awaitable[list[Answer]]:
        return asyncio.gather(
            *(
                generate(client, prompt, session_id="shared", turn_id=turn_id)
                for client, prompt, turn_id in zip(cluster.clients, prompts, turn_ids, strict=True)
            )
        )

    together = await answered(["same", "same"])
    alone = await answered(["first", "second"])

    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert prompts[0] != prompts[1]


async def test_routers_that_let_in_too_many_turns_together_fail_none(cluster: TwoRouters) -> None:
    """Each lets in as many as the cluster runs: workers queue the rest."""
    num_running = ENGINE.max_running * 2
    talks = [Talk("raw", "", 100 + index, first_tokens=40) for index in range(num_running + 8)]

    ends = await asyncio.gather(
        *(talk.turn(cluster.clients[index % 2]) for index, talk in enumerate(talks))
    )

    assert {end.finish_reason for end in ends} == {FinishReason.LENGTH}


async def test_one_router_serves_while_the_other_is_away(cluster: TwoRouters) -> None:
    talk, (router, _), (one, two) = Talk("session", "stays", 7), cluster.routers, cluster.clients
    await talk.turn(one)
    await until_reported()
    router.kill()

    await talk.turn(two)
    talk.check_last()
    status = await two.status()
    assert {worker.health for worker in status.workers} == {WorkerHealth.READY}
    for running in cluster.workers.values():
        assert len(running.worker._exchange.members.alive()) == len(WORKERS)


@pytest.mark.slow
async def test_a_lost_decode_worker_is_lost_for_both(demo: Path, tmp_path: Path) -> None:
    with routers(demo, tmp_path, 2) as started:
        addresses = [router.address for router in started]
        dying = subprocess.Popen(
            [
                *(sys.executable, "-m", "decode_worker", "--id", "decode-2"),
                *("--model", str(demo), "--router", ",".join(addresses)),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            async with (
                workers_of(demo, addresses),
                Client(addresses[0]) as one,
                Client(addresses[1]) as two,
            ):
                async with asyncio.timeout(60):
                    for client in (one, two):
                        await is_whole(client)
                        await wait_until_ready(client, len(WORKERS) + 1)
                dying.kill()
                async with asyncio.timeout(2):
                    for client in (one, two):
                        while await health(client, "decode-2") is not WorkerHealth.LOST:
                            await asyncio.sleep(0.02)
                for client in (one, two):
                    await Talk("raw", "", 1).turn(client)
        finally:
            dying.kill()
            dying.wait()


@pytest.mark.slow
async def test_turns_of_a_router_that_hangs_end_on_their_workers(cluster: TwoRouters) -> None:
    """As if its host were cut off: its connections stay open, but nothing answers."""
    (one, two), (router, _) = cluster.clients, cluster.routers
    unending = StopConditions(max_tokens=7_000, ignore_eos=True)
    stream = one.stream(TokenInput((7, 8, 9)), stop=unending, timeout_s=300)
    while not isinstance(await anext(stream), TokenDelta):
        pass
    assert router.popen is not None
    router.popen.send_signal(signal.SIGSTOP)
    try:
        stopped_at = time.monotonic()
        async with asyncio.timeout(60):
            while any(worker.load.running_turns for worker in (await two.status()).workers):
                await asyncio.sleep(0.1)
        assert 5 < time.monotonic() - stopped_at < 50
    finally:
        router.popen.send_signal(signal.SIGCONT)
    with contextlib.suppress(SegueError):
        await stream.aclose()
    await is_whole(one)


async def health(client: Client, worker_id: str) -> WorkerHealth | None:
    workers = {str(worker.worker_id): worker for worker in (await client.status()).workers}
    return workers[worker_id].health if worker_id in workers else None
