"""A turn id is used by one call at a time: another one is refused, or takes over."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from router.admission.admission import Admission, AdmissionRequest
from router.config import RouterConfig
from router.turn import ongoing
from router.turn.ongoing import OngoingTurns
from segue.api.errors import Cancelled, InvalidRequest, SegueError, TakenOver
from segue.api.types import TurnId
from tests.router.fake_workers import settle

NAME = ("acme", TurnId("t"))


class Router:
    """Runs calls for one turn, of which each notes when it is in the block and when it has left."""

    def __init__(self) -> None:
        self.admission = Admission(RouterConfig(max_turns=1))
        self.turns = OngoingTurns(self.admission)
        self.log: list[str] = []
        self.errors: dict[str, SegueError] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, who: str, *, takes_over: bool = False, stuck: bool = False) -> None:
        self.tasks[who] = asyncio.create_task(self._call(who, takes_over, stuck))
        await settle()

    async def _call(self, who: str, takes_over: bool, stuck: bool) -> None:
        try:
            async with self.turns.entered(NAME, takes_over=takes_over) as own:
                self.log.append(f"{who} runs")
                turn: Any = Interruptible()
                own.runs(turn)
                try:
                    if stuck:
                        # Its client does not read, so an interruption is not noticed.
                        await asyncio.Event().wait()
                    await turn.ends()
                finally:
                    self.log.append(f"{who} left")
        except SegueError as error:
            self.errors[who] = error


class Interruptible:
    def __init__(self) -> None:
        self._error: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def interrupt(self, error: SegueError) -> None:
        if not self._error.done():
            self._error.set_exception(error)

    async def ends(self) -> None:
        await self._error


@pytest.fixture
async def router() -> Any:
    router = Router()
    yield router
    for task in router.tasks.values():
        task.cancel()
    await asyncio.wait(router.tasks.values())
    assert not router.turns._newest


async def test_a_second_call_is_refused_and_the_first_goes_on(router: Router) -> None:
    await router.come("a")
    await router.come("b")

    assert router.log == ["a runs"]
    assert isinstance(router.errors["b"], InvalidRequest)
    assert "turn t is already running: use another turn_id" in str(router.errors["b"])


async def test_an_id_is_free_once_its_turn_has_ended(router: Router) -> None:
    await router.come("a")
    router.turns.cancel(NAME, Cancelled("enough"))
    await settle()
    await router.come("b")

    assert router.log == ["a runs", "a left", "b runs"]


async def test_a_resumed_turn_runs_once_the_one_before_has_left(router: Router) -> None:
    await router.come("a")
    await router.come("b", takes_over=True)

    assert router.log == ["a runs", "a left", "b runs"]
    assert isinstance(router.errors["a"], TakenOver)


async def test_a_turn_whose_client_reads_nothing_is_stopped_as_well(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ongoing, "_STOP_S", 0.01)
    await router.come("a", stuck=True)
    await router.come("b", takes_over=True)
    assert router.log == ["a runs"]
    with contextlib.suppress(asyncio.CancelledError):
        await router.tasks["a"]
    await settle()

    assert router.log == ["a runs", "a left", "b runs"]


async def test_of_several_that_take_over_the_last_one_runs(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for all of them to arrive.
    monkeypatch.setattr(ongoing, "_STOP_S", 0.5)
    await router.come("a", stuck=True)
    for who in "bcd":
        await router.come(who, takes_over=True)
    await asyncio.wait([router.tasks[who] for who in "abc"], timeout=5)
    await settle()

    assert router.log == ["a runs", "a left", "d runs"]
    assert {who: type(error) for who, error in router.errors.items()} == {
        "b": TakenOver,
        "c": TakenOver,
    }


async def test_one_that_leaves_while_it_takes_over_leaves_nothing(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ongoing, "_STOP_S", 0.02)
    await router.come("a", stuck=True)
    await router.come("b", takes_over=True)
    router.tasks["b"].cancel()
    await settle()
    await router.come("c", takes_over=True)
    await asyncio.wait([router.tasks["a"]], timeout=5)
    await settle()

    assert router.log == ["a runs", "a left", "c runs"]


async def test_a_turn_that_waits_for_a_place_is_taken_over_too() -> None:
    admission = Admission(RouterConfig(max_turns=1))
    turns = OngoingTurns(admission)
    await admission.enter(AdmissionRequest(name="another"))
    entered: list[str] = []

    async def call(who: str) -> None:
        async with turns.entered(NAME, takes_over=True):
            await admission.enter(AdmissionRequest(name=NAME))
            entered.append(who)
            admission.leave()

    first = asyncio.create_task(call("first"))
    await settle()
    second = asyncio.create_task(call("second"))
    await settle()
    with pytest.raises(TakenOver):
        await first
    admission.leave()
    await second

    assert entered == ["second"]
    assert (admission.num_turns, len(admission.waiting)) == (0, 0)


async def test_a_turn_that_is_cancelled_before_it_starts_is_interrupted_when_it_does() -> None:
    turns = OngoingTurns(Admission(RouterConfig()))
    async with turns.entered(NAME, takes_over=False) as own:
        assert turns.cancel(NAME, Cancelled("enough"))
        turn: Any = Interruptible()
        own.runs(turn)
        with pytest.raises(Cancelled):
            await turn.ends()

    assert not turns.cancel(NAME, Cancelled("too late"))
