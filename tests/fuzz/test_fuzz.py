"""For any message, a router or a worker answers with a valid status, continues, and holds
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kv_transfer.ticket import PeerIdentity
from kv_transfer.wire import ticket_to_wire
from router.__main__ import running as running_router
from router.config import RouterConfig
from segue.api.cluster.status import WorkerHealth
from segue.api.errors import Cancelled, SegueError
from segue.api.prompt import pack_tokens
from segue.api.types import (
    ChatInput,
    Message,
    SamplingParams,
    StopConditions,
    TextInput,
    TokenInput,
    TurnId,
)
from segue.demo import checkpoint_dir
from segue.internal.v1 import transfer_pb2 as pb2
from segue.internal.v1 import worker_pb2
from segue.launch.config import Config
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsStub
from segue.wire.channel import channel_to
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.fuzz.attack import Attack, Recorder, method_named
from tests.fuzz.mutation import MessagePool

logger = logging.getLogger(__name__)

PROMPT = tuple(range(20, 120))
THREE = StopConditions(max_tokens=3)
DRAINS = ("Drain", "DrainWorker", "DrainRouter")
# A stream that its client does not read is given up soon.
CONFIG = Config(engine=replace(ENGINE, max_running=32))


@pytest.fixture(scope="session")
def demo() -> Path:
    return checkpoint_dir()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records each call that would end the process."""
    seen: list[int] = []
    monkeypatch.setattr(os, "_exit", seen.append)
    return seen


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "recorded", {})
    monkeypatch.setattr("segue.wire.server.ErrorInterceptor", Recorder)


@pytest.fixture
async def cluster(recorder: None, demo: Path, exits: list[int]) -> AsyncIterator[LocalCluster]:
    async with local_cluster(demo, CONFIG) as cluster:
        yield cluster


async def honest_traffic(cluster: LocalCluster) -> None:
    """Sends every kind of message that clients and workers exchange."""
    client = cluster.client
    hello = (Message(role="user", content="Hello"),)
    await client.generate(ChatInput(messages=hello), session_id="chat", stop=THREE)
    await client.generate(
        TextInput("Hello"),
        sampling=SamplingParams(
            temperature=0.7, top_k=5, top_p=0.9, min_p=0.01, repetition_penalty=1.1,
            presence_penalty=0.5, frequency_penalty=0.5, logit_bias={5: 1.0}, logprobs=3, seed=1,
            prompt_logprobs=1,
        ),
        stop=StopConditions(max_tokens=3, stop_strings=("never",), stop_token_ids=(7,)),
    )  # fmt: skip
    # The client sends it only with what is longer.
    async with channel_to(client.target) as channel:
        turn = pb.GenerateRequest(text="Hello", session_id="alone", stop=pb.Stop(max_tokens=3))
        await SessionsStub(channel).Generate(turn).read()
    first = await client.generate(TokenInput(PROMPT), session_id="ids", stop=THREE)
    again = (*PROMPT, *first.token_ids, 21, 22)
    await client.generate(TokenInput(again), session_id="ids", stop=THREE)
    await client.renew_session("ids", 30.0)
    await client.fork_session("ids", "fork")
    await client.explain("ids")
    await client.sessions()
    await client.cancel("never")
    await client.release_session("fork")
    with contextlib.suppress(SegueError):
        await client.generate(TokenInput(PROMPT), session_id="late", stop=THREE, timeout_s=0.01)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Log lines that only a bug writes."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR or record.exc_info
    ]


async def attack_all(cluster: LocalCluster, seed: int, num_messages: int) -> list[Attack]:
    # A fake worker that joins gets turns, and one with a real worker's name replaces it: this
    # cluster has no secret. So membership is attacked on a separate router. A drain takes a process
    # out of service, as it should: `attack_drains`.
    recorded, pool = Recorder.so_far(), MessagePool()
    attacks = [
        (Attack(address, seed + i, recorded, pool), skip)
        for i, (address, skip) in enumerate(
            [
                (cluster.client.target, ("Membership", *DRAINS)),
                *((w.presence.address, DRAINS) for w in (*cluster.prefill, *cluster.decode)),
            ]
        )
    ]
    await asyncio.gather(*(attack.run(num_messages, skip=skip) for attack, skip in attacks))
    return [attack for attack, _ in attacks]


async def attack_handoffs(cluster: LocalCluster, seed: int, num_handoffs: int) -> Attack:
    """Existing tickets in slightly changed requests."""
    reader, writer = cluster.decode[0]._exchange.reader, cluster.prefill[0].presence
    attack = Attack(writer.address, seed, Recorder.so_far())
    draw = random.Random(seed)
    async with channel_to(writer.address) as prefill, channel_to(reader_at(cluster)) as decode:
        for number in range(num_handoffs):
            name = TurnId(f"nearly-{number}")
            reservation = reader.reserve(
                name,
                num_prompt_tokens=len(PROMPT),
                extra_tokens=3,
                writer=PeerIdentity(
                    worker_id=writer.identity.worker_id,
                    epoch=writer.identity.epoch,
                    address=writer.address,
                ),
                lifetime_s=5.0,
            )
            ticket = ticket_to_wire(reservation.ticket)
            turn = worker_pb2.TurnSpec(
                turn_id=name, context=pack_tokens(PROMPT), stop=pb.Stop(max_tokens=3)
            )
            prompt = worker_pb2.PrefillPrompt(turn=turn, ticket=ticket)
            request = worker_pb2.TurnCommands(
                commands=[worker_pb2.TurnCommand(call=number, prefill=prompt)]
            )
            await attack.call(
                prefill, method_named("segue.internal.v1.PrefillWorker.Turns"), request
            )
            late = [
                (decode, "Reader.Commit", pb2.CommitRequest(ticket_id=ticket.ticket_id)),
                (decode, "Reader.Abort", pb2.AbortRequest(ticket_id=ticket.ticket_id)),
                (prefill, "Writer.Fence", pb2.FenceRequest(ticket_id=ticket.ticket_id)),
            ]
            channel, method, message = draw.choice(late)
            if isinstance(message, pb2.FenceRequest):
                message.writer_epoch = writer.identity.epoch
            else:
                message.epoch = ticket.epoch
            await attack.call(channel, method_named(f"segue.internal.v1.Handoff{method}"), message)
            reservation.give_up(Cancelled("the attack is over"))
    return attack


def reader_at(cluster: LocalCluster) -> str:
    return cluster.decode[0].presence.address


async def check_all(
    cluster: LocalCluster,
    seed: int,
    num_messages: int,
    exits: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = await cluster.client.generate(TokenInput(PROMPT), stop=StopConditions(max_tokens=8))
    await honest_traffic(cluster)
    await wait_until_idle(cluster.client)
    num_tasks = len(asyncio.all_tasks())

    attacks = await attack_all(cluster, seed, num_messages)
    attacks.append(await attack_handoffs(cluster, seed, num_messages))

    num_sent = sum(attack.num_sent for attack in attacks)
    where = f"seed {seed}, {num_messages} messages for each method, {num_sent} in all"
    log_counts(where, attacks)
    assert [one for attack in attacks for one in attack.unexpected()] == [], where
    assert exits == [], where
    assert complaints(caplog) == [], where
    status = await wait_until_idle(cluster.client)
    assert is_idle(status), (where, status)
    cluster.check_invariants()
    assert await tasks_left(num_tasks) <= 0, where
    after = await cluster.client.generate(TokenInput(PROMPT), stop=StopConditions(max_tokens=8))
    assert after.token_ids == right.token_ids, where


def log_counts(where: str, attacks: Sequence[Attack]) -> None:
    """The statuses of each method."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for attack in attacks:
        for method, statuses in attack.outcomes.items():
            counts[method].update({status.name: count for status, count in statuses.items()})
    logger.info(where)
    for method, statuses in sorted(counts.items()):
        logger.info("%s: %d, %s", method, statuses.total(), dict(statuses))


async def tasks_left(num_before: int) -> int:
    """How many more tasks there are, once connections have closed."""
    for _ in range(100):
        if len(asyncio.all_tasks()) <= num_before:
            break
        await asyncio.sleep(0.1)
    return len(asyncio.all_tasks()) - num_before


async def test_nearly_right_messages_break_nothing(
    cluster: LocalCluster, exits: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    await check_all(cluster, random.randrange(2**32), 30, exits, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_thousands_of_nearly_right_messages_break_nothing(
    cluster: LocalCluster, exits: list[int], caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    # With a worker's thirteen methods, these are more than 5,000 messages.
    await check_all(cluster, seed, int(os.environ.get("FUZZ_MESSAGES", "400")), exits, caplog)


async def attack_drains(cluster: LocalCluster, seed: int, num_messages: int) -> list[Attack]:
    """First all but the drains themselves, with the messages of a real one, then these."""
    router, source, sibling = drained_pair(cluster)
    recorded, pool = Recorder.so_far(), MessagePool()
    attacks = [
        Attack(address, seed + i, recorded, pool) for i, address in enumerate((router, sibling))
    ]
    await asyncio.gather(
        attacks[0].run(num_messages, only=("MoveSessions",)),
        attacks[1].run(num_messages, only=("Adopt", "Pull", "ReadPrefix")),
    )
    attacks += [
        Attack(address, seed + 10 + i, recorded, pool)
        for i, address in enumerate((source, sibling, cluster.prefill[0].presence.address, router))
    ]
    await asyncio.gather(*(attack.run(num_messages, only=DRAINS) for attack in attacks[2:]))
    return attacks


def drained_pair(cluster: LocalCluster) -> tuple[str, str, str]:
    """The addresses of the router, of the decode worker that drains, and of the other one."""
    drained, others = [], []
    for worker in cluster.decode:
        is_draining = worker.presence.health is WorkerHealth.DRAINING
        (drained if is_draining else others).append(worker.presence.address)
    return cluster.client.target, drained[0], others[0]


@pytest.mark.parametrize("num_messages", [10, pytest.param(500, marks=pytest.mark.slow)])
async def test_nearly_right_drains_break_nothing(
    recorder: None,
    demo: Path,
    exits: list[int],
    caplog: pytest.LogCaptureFixture,
    num_messages: int,
) -> None:
    seed = random.randrange(2**32)
    # With more memory for states than in `CONFIG`.
    async with local_cluster(demo, decode=2) as cluster:
        await honest_traffic(cluster)
        # Long enough that a state stays at the end of a page.
        long = StopConditions(max_tokens=40, ignore_eos=True)
        answer = await cluster.client.generate(TokenInput(PROMPT), session_id="moves", stop=long)
        report = await cluster.client.drain_worker(answer.end.decode_worker)
        assert report.moved_sessions >= 1
        num_tasks = len(asyncio.all_tasks())

        attacks = await attack_drains(cluster, seed, num_messages)

        where = f"seed {seed}, {num_messages} messages for each method"
        log_counts(where, attacks)
        assert [one for attack in attacks for one in attack.unexpected()] == [], where
        assert (exits, complaints(caplog)) == ([], []), where
        status = await wait_until_idle(cluster.client)
        assert is_idle(status), (where, status)
        cluster.check_invariants()
        # The drain of each other worker and of the router keeps a task or two until they leave.
        assert await tasks_left(num_tasks) <= 0, where


async def attack_membership(
    cluster: LocalCluster, demo: Path, seed: int, num_messages: int
) -> Attack:
    async with running_router(RouterConfig(port=0, drain_s=0.1), str(demo)) as router:
        attack = Attack(router.address, seed, Recorder.so_far())
        await attack.run(num_messages, only=("Membership", "Sessions"))
    return attack


@pytest.mark.parametrize("num_messages", [30, pytest.param(1000, marks=pytest.mark.slow)])
async def test_nearly_right_heartbeats_break_no_router(
    cluster: LocalCluster,
    demo: Path,
    exits: list[int],
    caplog: pytest.LogCaptureFixture,
    num_messages: int,
) -> None:
    seed = random.randrange(2**32)
    await honest_traffic(cluster)

    attack = await attack_membership(cluster, demo, seed, num_messages)

    where = f"seed {seed}, {num_messages} messages for each method"
    log_counts(where, [attack])
    assert attack.unexpected() == [], where
    assert (exits, complaints(caplog)) == ([], []), where
