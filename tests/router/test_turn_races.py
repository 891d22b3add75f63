"""A turn, with events injected between any two of its steps: tables of races.

Workers act one step at a time. Between two steps one or two events happen, and then the workers
continue their script. However the turn ends, nothing stays held and no token is lost or repeated.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from router.config import RouterConfig
from router.metrics import RouterMetrics
from router.turn.answered import AnsweredTokens
from router.turn.dispatch import TurnContext
from router.turn.turn import Turn
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    SegueError,
    TransferFailed,
    Unavailable,
)
from segue.api.turn import (
    ComputedOnDecode,
    PromptLogprobs,
    TokenDelta,
    TurnEnd,
    TurnEvent,
    TurnStarted,
)
from segue.api.types import Resume, Sampling
from tests.router.fake_workers import FakeWorkers, settle
from tests.router.placed import ManualClock, placing_of, seats, serve, spec

ANSWER = (1, 2, 3)
CONFIG = RouterConfig(lost_worker_wait_s=0.0)
MAX_ATTEMPTS = CONFIG.max_attempts
METRICS = RouterMetrics()
"""Of all worlds: nothing here reads them."""


@dataclass
class World:
    """One turn between its client and its workers."""

    is_local: bool
    is_scored: bool = False
    num_brought: int = 0
    """Tokens of the answer that the client brings back from an earlier stream."""
    workers: FakeWorkers = field(default_factory=FakeWorkers)
    clock: ManualClock = field(init=False)
    events: list[TurnEvent] = field(default_factory=list)
    error: BaseException | None = None
    num_retries: int = 0

    def __post_init__(self) -> None:
        clock = self.clock = ManualClock()
        self.placing = placing_of(
            clock, METRICS, local_prefill_max_tokens=256 if self.is_local else 0
        )
        if self.is_local:
            serve(self.placing)
        turn = spec(6_464 if self.is_local else 6_400)
        if self.is_scored:
            turn = replace(turn, sampling=Sampling(prompt_logprobs=0))
        context = TurnContext(
            placing=self.placing.turn(turn),
            workers=self.workers,
            clock=clock,
            config=CONFIG,
            pause_s=lambda: 1e-6,
            tried_again=self._count_retry,
            session_id=turn.session_id,
        )
        resume = Resume(token_ids=ANSWER[: self.num_brought], resumed=self.num_brought)
        self.turn = Turn(
            turn,
            context,
            received_at=clock(),
            deadline_at=clock() + 3_600,
            answered=AnsweredTokens(resume) if self.num_brought else AnsweredTokens(),
        )
        self.client = asyncio.ensure_future(self._read())

    def _count_retry(self, error: SegueError, num_answered: int) -> None:
        self.num_retries += 1

    async def _read(self) -> None:
        answering = self.turn.events()
        try:
            async for events in answering:
                self.events += events
        except SegueError as error:
            self.error = error
        finally:
            await answering.aclose()

    @property
    def tokens(self) -> tuple[int, ...]:
        deltas = (event for event in self.events if isinstance(event, TokenDelta))
        new = itertools.chain.from_iterable(delta.token_ids for delta in deltas)
        return (*ANSWER[: self.num_brought], *new)

    @property
    def has_ended(self) -> bool:
        return any(isinstance(event, TurnEnd) for event in self.events)


Step = Callable[[World], None]


def reserve(world: World) -> None:
    world.workers.decodes[-1].reserve()


def reserve_rest(world: World) -> None:
    """The same for a turn whose client has the first token."""
    reserve(world)


def start_prefill(world: World) -> None:
    world.workers.decodes[-1].start_prefill()


def finish_prefill(world: World) -> None:
    world.workers.finish_prefill()


def finish_scoring(world: World) -> None:
    """The same for a turn that wants the log-probabilities of its prompt."""
    world.workers.finish_prefill()


def token(token_id: int) -> Step:
    return lambda world: world.workers.decodes[-1].token(token_id)


def end(world: World) -> None:
    world.workers.decodes[-1].end()


def scripts_of(answer: Sequence[int]) -> dict[str, list[Step]]:
    tokens = [token(token_id) for token_id in answer]
    return {
        "local": [start_prefill, *tokens, end],
        "shipped": [reserve, finish_prefill, *tokens, end],
        # The decode worker may be faster than prefill's reply that the prompt has arrived.
        "answered first": [reserve, *tokens, end, finish_prefill],
        "scored": [reserve, finish_scoring, *tokens, end],
        "scored last": [reserve, *tokens, end, finish_scoring],
        "resumed": [reserve_rest, finish_prefill, *tokens[1:], end],
    }


SCRIPTS = scripts_of(ANSWER)


def cancel(world: World) -> None:
    world.turn.interrupt(Cancelled("a client cancelled it"))


def run_out_of_time(world: World) -> None:
    world.turn.interrupt(DeadlineExceeded("too late"))


def stop_router(world: World) -> None:
    world.turn.interrupt(Unavailable("the router stops"))


def leave(world: World) -> None:
    world.client.cancel()


def lose_decode(world: World) -> None:
    world.workers.decodes[-1].die(Unavailable("decode is lost"))


def fail_decode(world: World) -> None:
    world.workers.decodes[-1].refuse(InvalidRequest("decode does not want it"))


def lose_prefill(world: World) -> None:
    world.workers.finish_prefill(Unavailable("prefill is lost"))


def fail_prefill(world: World) -> None:
    world.workers.finish_prefill(InvalidRequest("prefill does not want it"))


def fail_transfer(world: World) -> None:
    world.workers.finish_prefill(TransferFailed("the bytes did not arrive"))


def repeat_last(world: World) -> None:
    """Sends the end twice, and tokens after it."""
    call = world.workers.decodes[-1]
    if call.has_ended:
        call.token(9)
        call.end()


INTRUDERS: dict[Step, set[str]] = {
    cancel: {"cancelled"},
    run_out_of_time: {"deadline"},
    stop_router: {"failed"},
    leave: {"disconnected"},
    lose_decode: {"stop", "failed"},
    fail_decode: {"invalid"},
    lose_prefill: {"stop", "failed"},
    fail_prefill: {"invalid", "stop"},
    fail_transfer: {"stop", "failed"},
    repeat_last: set(),
}
"""Each with the ways in which a turn may end then, unless its answer was already complete."""


async def play(script: Sequence[Step], position: int, intruders: Sequence[Step]) -> World:
    """Plays the script up to `position`, then the intruders at once, then the rest of the script.

    For a retried turn the workers play a whole script, for the tokens that the client lacks.
    """
    world = World(
        is_local=script[0] is start_prefill,
        is_scored=finish_scoring in script,
        num_brought=int(script[0] is reserve_rest),
    )
    await settle()
    for step in script[:position]:
        step(world)
        await settle()
    for intrude in intruders:
        intrude(world)
    num_attempts = len(world.workers.decodes)
    await settle()
    rest = script[position:]
    if len(world.workers.decodes) > num_attempts:
        # It is placed without local prefill, or elsewhere, and continues after its client's tokens.
        last = world.workers.decodes[-1]
        is_local = isinstance(last.source, ComputedOnDecode)
        left = scripts_of(ANSWER[last.turn.spec.num_answered :])
        rest = left["local" if is_local else "shipped"]
    for step in rest:
        step(world)
        await settle()
    await asyncio.wait({world.client}, timeout=5)
    return world


def wrongs(world: World, allowed: set[str]) -> list[str]:
    """What is wrong after the turn, however it ended."""
    outcome = world.turn.outcome
    are_logprobs = [
        isinstance(event, PromptLogprobs)
        for event in world.events
        if isinstance(event, PromptLogprobs | TokenDelta)
    ]
    found = {
        "the client still waits": not world.client.done(),
        f"it ended as {outcome}": outcome not in allowed,
        "seats are taken": seats(world.placing) != {},
        "a call was neither ended nor stopped": any(
            call.num_stops + call.has_ended == 0 for call in world.workers.decodes
        ),
        "a call was stopped twice": any(call.num_stops > 1 for call in world.workers.decodes),
        "a prompt is still being computed": any(not p.done() for p in world.workers.prefills),
        "tokens are lost or repeated": world.tokens != ANSWER[: len(world.tokens)],
        "it scored its prompt for a client that has the scores": any(
            call.turn.spec.scores_prompt and call.turn.spec.num_answered
            for call in world.workers.decodes
        ),
        "log-probabilities of the prompt come late or twice": any(are_logprobs[1:])
        or are_logprobs[:1] not in ([], [world.is_scored]),
        "it ended without its answer": outcome == "stop" and world.tokens != ANSWER,
        "it ended twice": sum(isinstance(e, TurnEnd) for e in world.events) > 1,
        "it ended with and without an error": world.has_ended and world.error is not None,
        "it asked a worker for tokens that its client has": any(
            call.turn.spec.answered_ids.tolist() != list(ANSWER[: call.turn.spec.num_answered])
            for call in world.workers.decodes
        ),
        "it started twice": sum(isinstance(e, TurnStarted) for e in world.events) > 1
        and not any(
            call.turn.spec.num_answered == world.num_brought for call in world.workers.decodes[1:]
        ),
        "it counts its resumptions wrongly": any(
            event.usage.resumed < world.num_brought
            for event in world.events
            if isinstance(event, TurnEnd)
        ),
    }
    return [what for what, is_so in found.items() if is_so]


@pytest.mark.parametrize("script", SCRIPTS)
async def test_an_undisturbed_turn_answers(script: str) -> None:
    world = await play(SCRIPTS[script], len(SCRIPTS[script]), [])

    assert wrongs(world, {"stop"}) == []
    assert [type(event) for event in world.events].count(TurnStarted) == 1
    assert (world.tokens, world.num_retries, world.error) == (ANSWER, 0, None)
    source = world.workers.decodes[0].source
    assert isinstance(source, ComputedOnDecode if script == "local" else WorkerStatus)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("intruder", INTRUDERS, ids=lambda step: step.__name__)
async def test_one_event_between_any_two_steps_leaves_nothing_held(
    script: str, intruder: Step
) -> None:
    unhandled = watch_loop()
    for position in range(len(SCRIPTS[script]) + 1):
        world = await play(SCRIPTS[script], position, [intruder])
        assert wrongs(world, {"stop", *INTRUDERS[intruder]}) == [], position
    assert unhandled == []


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "scored"])
@pytest.mark.parametrize("first", INTRUDERS, ids=lambda step: step.__name__)
async def test_two_simultaneous_events_leave_nothing_held(script: str, first: Step) -> None:
    unhandled = watch_loop()
    for second, position in itertools.product(INTRUDERS, range(len(SCRIPTS[script]) + 1)):
        allowed = {"stop", *INTRUDERS[first], *INTRUDERS[second]}
        world = await play(SCRIPTS[script], position, [first, second])
        assert wrongs(world, allowed) == [], (second.__name__, position)
    assert unhandled == []


@pytest.mark.parametrize(
    ("intruder", "script", "position", "outcome", "attempts"),
    [
        (lose_decode, "shipped", 0, "stop", 2),
        (lose_decode, "shipped", 1, "stop", 2),
        (lose_decode, "shipped", 2, "stop", 2),
        (lose_decode, "shipped", 3, "stop", 2),
        (lose_decode, "shipped", 5, "stop", 2),
        (lose_decode, "local", 1, "stop", 2),
        (lose_decode, "local", 2, "stop", 2),
        (lose_prefill, "shipped", 1, "stop", 2),
        (fail_transfer, "shipped", 1, "stop", 2),
        (fail_prefill, "shipped", 1, "invalid", 1),
        (fail_decode, "shipped", 0, "invalid", 1),
        (cancel, "shipped", 0, "cancelled", 1),
        (cancel, "shipped", 3, "cancelled", 1),
        (run_out_of_time, "local", 0, "deadline", 1),
        (stop_router, "shipped", 1, "failed", 1),
        (leave, "shipped", 4, "disconnected", 1),
        (leave, "shipped", 6, "stop", 1),
        (lose_prefill, "answered first", 5, "stop", 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_which_errors_are_retried(
    intruder: Step, script: str, position: int, outcome: str, attempts: int
) -> None:
    world = await play(SCRIPTS[script], position, [intruder])

    assert (world.turn.outcome, len(world.workers.decodes)) == (outcome, attempts)


@pytest.mark.parametrize("intruder", [cancel, run_out_of_time, stop_router])
async def test_events_before_the_start_end_the_turn(intruder: Step) -> None:
    world = World(is_local=False)
    intruder(world)
    await settle()

    assert world.client.done()
    assert wrongs(world, INTRUDERS[intruder]) == []


async def test_a_worker_that_failed_is_avoided() -> None:
    world = await play(SCRIPTS["shipped"], 1, [lose_decode])

    first, second = world.workers.decodes
    assert first.worker.worker_id != second.worker.worker_id
    assert first.turn.name != second.turn.name


def lost(worker_id: str) -> Unavailable:
    """As the router's own connections raise it."""
    error = Unavailable(f"{worker_id} is lost")
    error.lost_worker = worker_id
    return error


OTHER = {"prefill-0": "prefill-1", "prefill-1": "prefill-0"}
OTHER |= {"decode-0": "decode-1", "decode-1": "decode-0"}


def on(world: World) -> tuple[str, str]:
    """The workers of the last attempt."""
    last = world.workers.decodes[-1]
    assert isinstance(last.source, WorkerStatus)
    return last.source.worker_id, last.worker.worker_id


@pytest.mark.parametrize("is_prefill_first", [True, False])
async def test_a_turn_survives_a_node_with_one_worker_of_each_role(is_prefill_first: bool) -> None:
    world = World(is_local=False)
    await settle()
    prefill, decode = on(world)
    # The turn is on one of the node's workers, and what it is moved to may be the other.
    dead = {prefill, OTHER[decode]} if is_prefill_first else {OTHER[prefill], decode}

    while dead & set(on(world)) and not world.client.done():
        prefill, decode = on(world)
        reserve(world)
        await settle()
        if decode in dead:
            world.workers.decodes[-1].die(lost(decode))
        else:
            world.workers.finish_prefill(lost(prefill))
        await settle()
    for step in SCRIPTS["shipped"]:
        step(world)
        await settle()

    assert world.client.done()
    assert wrongs(world, {"stop"}) == []


async def test_a_wait_between_two_attempts_is_not_the_routers_own_time() -> None:
    world = World(is_local=False)
    await settle()
    world.clock.now += 3.0
    lose_decode(world)
    await settle()
    for step in SCRIPTS["shipped"]:
        step(world)
        await settle()

    assert isinstance(end := world.events[-1], TurnEnd)
    assert (end.timings.router_s, end.timings.queue_s) == (0.0, 3.0)


@pytest.mark.parametrize(("num_losses", "outcome"), [(2, "stop"), (3, "failed")])
async def test_a_turn_survives_a_second_loss_before_its_next_token(
    num_losses: int, outcome: str
) -> None:
    world = World(is_local=False)
    for _ in range(num_losses):
        await settle()
        lose_decode(world)
    await settle()
    for step in SCRIPTS["shipped"] if outcome == "stop" else []:
        step(world)
        await settle()

    assert world.client.done()
    assert wrongs(world, {outcome}) == []
    assert len(world.workers.decodes) == 3


def watch_loop() -> list[Any]:
    """Collects errors that nothing handled in this event loop."""
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    return seen
