"""A handoff between two workers, with faults injected between any two of its steps.

A fault is injected at every await of the prefill worker and of the decode worker, and where their
threads are held. Then the workers continue. However the turn ends, the answer is right or missing,
pages and slots add up, and nothing is left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefill_worker.pull import PullEstimate
from segue.api.errors import Cancelled, DeadlineExceeded, InvalidRequest, Unavailable
from segue.api.prompt import Prompt
from segue.api.turn import ComputedOnDecode, PrefixHolder
from tests.workers.fake_runner import answer_to
from tests.workers.two_workers import (
    DECODE,
    NUM_ANSWERED,
    NUM_PAGES,
    PREFILL,
    ShippedTurn,
    TwoWorkers,
    spec,
    until,
    wrongs,
)
from tests.workers.wires import Fault

PROMPT = tuple(range(40, 59))
numbers = itertools.count()


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TwoWorkers]:
    """Runs in an event loop where every exception must be handled, and in a process that must not
    exit.
    """
    exits: list[int] = []
    unhandled: list[object] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr("kv_transfer.reading.fencer.FIRST_RETRY_S", 0.001)
    always = PullEstimate(compute_s=1.0, move_s=0.0)
    monkeypatch.setattr("prefill_worker.pull.estimate_pull", lambda *_, **__: always)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    with contextlib.ExitStack() as stack:
        workers = TwoWorkers(stack)
        yield workers
        await workers.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (exits, unhandled) == ([], [])


@dataclass
class Scene:
    """One turn, and the faults injected into it."""

    workers: TwoWorkers
    turn: ShippedTurn
    background: list[asyncio.Task[Any]] = field(default_factory=list)
    prefill_died: bool = False

    async def end(self) -> None:
        """The workers continue; cut connections are restored, and late messages arrive."""
        workers, turn = self.workers, self.turn
        workers.let_go()
        await until(lambda: turn.is_over() or bool(workers.wires.cut_off))
        if workers.wires.cut_off:
            await until(lambda: turn.at_prefill.is_over)
            if self.prefill_died:
                workers.see_members(PREFILL)
                await until(lambda: turn.is_over(ignoring=PREFILL))
            workers.mend()
        await until(turn.is_over)
        await workers.wires.deliver_late()
        await asyncio.gather(*self.background)
        await until(turn.is_over)
        workers.wires.faults.clear()

    def wrongs(self) -> list[str]:
        turn = self.turn
        right = answer_to(turn.turn.context, NUM_ANSWERED)
        found = {
            "it is answered wrongly": turn.tokens != right[: len(turn.tokens)],
            "it ended without its answer": turn.result is not None and turn.tokens != right,
            "decode let go of its call before its memory": turn.is_left_behind,
            "it ended without a reason": turn.result is None and not turn.errors,
        }
        return [*(what for what, is_so in found.items() if is_so), *wrongs(self.workers)]


Play = Callable[[TwoWorkers], Scene]


def plain(workers: TwoWorkers) -> Scene:
    """A prompt of which neither worker holds anything."""
    for worker in workers.workers:
        evict(worker._memory)
    return Scene(workers, ShippedTurn(workers, spec(f"turn-{next(numbers)}", PROMPT)))


def evict(memory: Any) -> None:
    memory.cache.make_room(memory.pages.total, memory.slots.total)


async def hold_prefix(workers: TwoWorkers) -> None:
    """Decode gets the pages and a state of a prompt and its answer; prefill loses them."""
    workers.mend()
    evict(workers.decode._memory)
    earlier = plain(workers)
    earlier.turn.start()
    await earlier.end()
    assert earlier.wrongs() == []
    assert earlier.turn.result is not None
    assert earlier.turn.result.kept_checkpoint_tokens > 0
    evict(workers.prefill._memory)


def pulling(workers: TwoWorkers) -> Scene:
    """After `hold_prefix`: the next prompt of the session, with decode as the holder."""
    prompt = (*PROMPT, *answer_to(PROMPT, NUM_ANSWERED), *range(70, 75))
    cache = workers.decode._memory.cache
    match = cache.match(Prompt(prompt))
    assert match.checkpoint is not None
    identity = workers.decode.presence.identity
    holder = PrefixHolder(
        worker_id=identity.worker_id,
        epoch=identity.epoch,
        address=workers.decode.presence.address,
        checkpoint_tokens=match.checkpoint.num_tokens,
    )
    return Scene(workers, ShippedTurn(workers, spec(f"turn-{next(numbers)}", prompt), holder))


SCRIPTS: dict[str, Play] = {"plain": plain, "pulling": pulling}

Intruder = Callable[[Scene], None]


def do_nothing(scene: Scene) -> None:
    pass


def cancel_prefill(scene: Scene) -> None:
    scene.turn.at_prefill.cancel()


def cancel_decode(scene: Scene) -> None:
    scene.turn.at_decode.cancel()


def cancel_decode_alone(scene: Scene) -> None:
    """Cancels only on decode; decode's fence reaches prefill before the router does."""
    scene.turn.router_is_slow = True
    scene.turn.at_decode.cancel()


def leave(scene: Scene) -> None:
    scene.turn.at_decode.cancel()
    scene.turn.at_prefill.cancel()


def close_prefill(scene: Scene) -> None:
    for work in scene.workers.prefill._turns.values():
        work.interrupt(Cancelled("the worker closes"))


def close_decode(scene: Scene) -> None:
    for turn in scene.workers.decode._turns.values():
        turn.work.interrupt(Unavailable("the worker closes"))


def expire(scene: Scene) -> None:
    """Expires all tickets on both workers at once."""
    scene.workers.clock.now += 3600
    for exchange in scene.workers.wires.exchanges.values():
        exchange.reader.expire_due()


def fence(scene: Scene) -> None:
    """An unrequested fence overtakes everything else."""
    for ticket in scene.turn.tickets:
        fencing = scene.workers.prefill._exchange.writer.fence(ticket.ticket_id)
        scene.background.append(asyncio.ensure_future(fencing))


def prepare_twice(scene: Scene) -> None:
    turn, prefill = scene.turn, scene.workers.prefill
    if turn.turn.turn_id in prefill._turns:
        require_refused(prefill.prefill(turn.turn, turn.tickets[0], None))


def start_twice(scene: Scene) -> None:
    turn, decode = scene.turn, scene.workers.decode
    if turn.turn.turn_id in decode._turns:
        again = decode.answer(turn.turn, ComputedOnDecode(512), turn.errors.append, timeout_s=1)
        require_refused(again)


def require_refused(again: Coroutine[Any, Any, None]) -> None:
    """Checks that the call is refused at once, before it waits for anything."""
    with pytest.raises(InvalidRequest):
        again.send(None)


def cut_decode_off(scene: Scene) -> None:
    scene.workers.cut_off(DECODE)


def kill_prefill(scene: Scene) -> None:
    """Ends its process; the router knows."""
    scene.workers.wires.cut_off.add(PREFILL)
    scene.workers.wires.dead.add(PREFILL)
    scene.turn.at_prefill.cancel()
    scene.prefill_died = True


INTRUDERS = [
    do_nothing,
    cancel_prefill,
    cancel_decode,
    cancel_decode_alone,
    leave,
    close_prefill,
    close_decode,
    expire,
    fence,
    prepare_twice,
    start_twice,
    cut_decode_off,
    kill_prefill,
]
HARMLESS = [do_nothing, prepare_twice, start_twice]


@pytest.mark.parametrize("script", SCRIPTS)
async def test_an_undisturbed_turn_answers(workers: TwoWorkers, script: str) -> None:
    await hold_prefix(workers)
    scene = SCRIPTS[script](workers)
    scene.turn.start()
    await scene.end()

    assert scene.wrongs() == []
    assert (scene.turn.errors, scene.turn.result is not None) == ([], True)
    assert scene.turn.result is not None
    assert (scene.turn.result.usage.pulled_tokens > 0) == (script == "pulling")


@pytest.mark.parametrize("side", ["prefill", "decode"])
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("intruder", INTRUDERS, ids=lambda step: step.__name__)
async def test_a_fault_at_every_await_leaves_nothing(
    workers: TwoWorkers, script: str, side: str, intruder: Intruder
) -> None:
    for number in itertools.count(1):
        scene = await prepared(workers, script)
        watched = scene.turn.at_prefill if side == "prefill" else scene.turn.at_decode
        watched.intrude_at(number, functools.partial(intruder, scene))
        scene.turn.start()
        await scene.end()

        assert scene.wrongs() == [], number
        if intruder in HARMLESS:
            assert scene.turn.result is not None, number
        if not watched.has_intruded:
            break
    assert number > (5 if side == "prefill" else 1)


FAULTS = [
    *itertools.product(["meet", "commit"], Fault),
    ("abort", Fault.LOST),
    ("abort", Fault.NO_ANSWER),
    ("abort", Fault.TWICE),
    ("fence", Fault.LOST),
    ("fence", Fault.NO_ANSWER),
    ("fence", Fault.TWICE),
]
"""A late abort or fence is lost first, and has nothing left to do later."""
PULL_FAULTS = [("pull", fault) for fault in Fault]


@pytest.mark.parametrize(("method", "fault"), FAULTS)
async def test_a_failing_call_and_another_fault_at_every_await_leave_nothing(
    workers: TwoWorkers, method: str, fault: Fault
) -> None:
    for intruder in (do_nothing, cancel_prefill, cancel_decode, expire):
        await at_every_await_of_prefill(workers, "plain", {method: fault}, intruder)


@pytest.mark.parametrize(("method", "fault"), [*PULL_FAULTS, *FAULTS])
async def test_a_failing_pull_and_a_cancellation_at_every_await_leave_nothing(
    workers: TwoWorkers, method: str, fault: Fault
) -> None:
    for intruder in (do_nothing, cancel_prefill):
        await at_every_await_of_prefill(workers, "pulling", {method: fault}, intruder)


async def at_every_await_of_prefill(
    workers: TwoWorkers, script: str, faults: dict[str, Fault], intruder: Intruder
) -> None:
    for number in itertools.count(1):
        scene = await prepared(workers, script)
        workers.wires.faults.update(faults)
        scene.turn.at_prefill.intrude_at(number, functools.partial(intruder, scene))
        scene.turn.start()
        await scene.end()

        assert scene.wrongs() == [], (intruder.__name__, number)
        if not scene.turn.at_prefill.has_intruded or intruder is do_nothing:
            break


async def prepared(workers: TwoWorkers, script: str) -> Scene:
    if script == "pulling":
        await hold_prefix(workers)
    return SCRIPTS[script](workers)


# Where a thread can be held: what closes the gate, and what signals that a thread has reached it.
HOLDS: dict[str, tuple[Callable[[TwoWorkers], None], Callable[[TwoWorkers], bool]]] = {
    "computing": (
        lambda workers: workers.runners[PREFILL].gate.close(),
        lambda workers: workers.runners[PREFILL].gate.wait_until_reached(),
    ),
    "writing": (
        lambda workers: workers.network.hold(),
        lambda workers: workers.network.wait_until_held(5.0),
    ),
    "verifying": (
        lambda workers: workers.memories[DECODE].gate.close(),
        lambda workers: workers.memories[DECODE].gate.wait_until_reached(),
    ),
}


@pytest.mark.parametrize("place", HOLDS)
@pytest.mark.parametrize("intruder", INTRUDERS, ids=lambda step: step.__name__)
async def test_a_fault_while_a_thread_is_held_leaves_nothing(
    workers: TwoWorkers, place: str, intruder: Intruder
) -> None:
    close, wait_until_reached = HOLDS[place]
    scene = plain(workers)
    close(workers)
    scene.turn.start()
    assert await asyncio.to_thread(wait_until_reached, workers)

    intruder(scene)
    for _ in range(10):
        await asyncio.sleep(0)
    (ticket,) = scene.turn.tickets
    free = workers.decode._memory.pages.counts().free
    if workers.prefill._exchange.writer._active:
        # It may still write, so its pages belong to no other owner.
        assert free <= NUM_PAGES - len(ticket.page_ids)
    await scene.end()

    assert scene.wrongs() == []
    if intruder in HARMLESS:
        assert scene.turn.result is not None


@pytest.mark.parametrize("intruder", [cancel_decode, cancel_decode_alone, close_decode, expire])
async def test_pages_that_are_being_written_are_in_quarantine(
    workers: TwoWorkers, intruder: Intruder
) -> None:
    scene = plain(workers)
    workers.network.hold()
    scene.turn.start()
    assert await asyncio.to_thread(workers.network.wait_until_held, 5.0)

    intruder(scene)
    for _ in range(10):
        await asyncio.sleep(0)

    assert workers.decode._memory.pages.counts().quarantined > 0
    assert workers.decode._memory.slots.counts().quarantined == 1
    await scene.end()
    assert scene.wrongs() == []


@pytest.mark.parametrize(
    ("method", "fault", "is_answered"),
    [
        ("meet", Fault.LOST, False),
        ("meet", Fault.LATE, False),
        ("meet", Fault.NO_ANSWER, False),
        ("meet", Fault.TWICE, True),
        ("commit", Fault.LOST, False),
        ("commit", Fault.LATE, False),
        ("commit", Fault.TWICE, True),
        ("fence", Fault.LOST, True),
        ("abort", Fault.LOST, True),
    ],
)
async def test_which_faults_still_get_an_answer(
    workers: TwoWorkers, method: str, fault: Fault, is_answered: bool
) -> None:
    scene = plain(workers)
    workers.wires.faults[method] = fault
    scene.turn.start()
    await scene.end()

    assert (scene.turn.result is not None) == is_answered
    assert bool(scene.turn.errors) != is_answered
    assert scene.wrongs() == []


@pytest.mark.parametrize("fault", Fault)
async def test_a_failed_pull_does_not_fail_the_turn(workers: TwoWorkers, fault: Fault) -> None:
    await hold_prefix(workers)
    scene = pulling(workers)
    workers.wires.faults["pull"] = fault
    scene.turn.start()
    await scene.end()

    assert scene.wrongs() == []
    assert scene.turn.errors == []
    assert scene.turn.result is not None
    assert (scene.turn.result.usage.pulled_tokens > 0) == (fault is Fault.TWICE)


async def test_a_commit_after_its_turn_was_stopped_revives_nothing(
    workers: TwoWorkers,
) -> None:
    scene = plain(workers)
    workers.wires.faults |= {"commit": Fault.LATE, "abort": Fault.LOST, "fence": Fault.LOST}
    scene.turn.start()
    await until(lambda: workers.wires.num_calls.get("fence", 0) == 1)
    await workers.wires.deliver_late()
    await scene.end()

    assert (scene.turn.tokens, scene.turn.result) == ((), None)
    assert scene.wrongs() == []


async def test_a_turn_that_waits_for_memory_until_its_deadline_leaves_nothing(
    workers: TwoWorkers,
) -> None:
    first = plain(workers)
    workers.runners[PREFILL].gate.close()
    first.turn.start()
    large = ShippedTurn(workers, spec("too-late", range(1, 91)), timeout_s=0.01)
    large.start()
    await until(lambda: large.at_decode.is_over)
    await first.end()

    assert [type(error) for error in large.errors] == [DeadlineExceeded]
    assert first.wrongs() == []
    assert first.turn.result is not None


async def test_concurrent_turns_with_a_fault_in_each_do_not_affect_each_other(
    workers: TwoWorkers,
) -> None:
    """They share threads, memory and connections; a fault in one turn ends no other."""
    for second in INTRUDERS:
        if second in (close_prefill, close_decode, cut_decode_off, kill_prefill):
            # These affect all turns of a worker.
            continue
        for worker in workers.workers:
            evict(worker._memory)
        scenes = [
            Scene(workers, ShippedTurn(workers, spec(f"turn-{next(numbers)}", prompt)))
            for prompt in (PROMPT, range(80, 90), range(100, 111))
        ]
        scenes[0].turn.at_prefill.intrude_at(4, functools.partial(cancel_prefill, scenes[0]))
        scenes[1].turn.at_prefill.intrude_at(3, functools.partial(second, scenes[1]))
        for scene in scenes:
            scene.turn.start()
        for scene in scenes:
            await until(scene.turn.is_over)
        for scene in scenes:
            await scene.end()

        assert [scene.wrongs() for scene in scenes] == [[], [], []], second.__name__
        if second is not expire:
            assert scenes[2].turn.result is not None, second.__name__
