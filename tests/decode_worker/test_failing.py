"""Errors in an engine: the affected sequence or pass ends, and the other answers are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decode_worker.config import DecodeConfig
from decode_worker.engine.engine import DecodeEngine
from decode_worker.engine.events import TurnReleased
from decode_worker.engine.sequence import DecodeSequence
from decode_worker.metrics import DecodeMetrics
from segue.api.errors import SegueError, Unavailable
from segue.api.turn import FinishReason
from segue.api.types import Sampling, StopRules
from segue.engine.device.launcher import Launcher
from segue.engine.runner import ModelRunner
from tests.decode_worker.engines import (
    MAX_RUNNING,
    Publish,
    TurnCase,
    TurnOutcome,
    Turns,
    runner_of,
)

CONFIG = DecodeConfig(max_drafts=0)


@pytest.fixture(scope="module")
def runner(tiny_dense: Path) -> ModelRunner:
    return runner_of(tiny_dense)


@pytest.fixture(params=["host", "overlapped"])
def make(request: pytest.FixtureRequest, runner: ModelRunner) -> Callable[[Publish], DecodeEngine]:
    def host(publish: Publish) -> DecodeEngine:
        return DecodeEngine(runner, DecodeMetrics(), publish, CONFIG)

    def overlapped(publish: Publish) -> DecodeEngine:
        launcher = Launcher.of(runner, num_rows=MAX_RUNNING, max_batch=64, max_drafts=0)
        return DecodeEngine(runner, DecodeMetrics(), publish, CONFIG, launcher=launcher)

    return host if request.param == "host" else overlapped


class Observed(Turns):
    """Records a turn's events, and fails for chosen turns."""

    def __init__(self, runner: ModelRunner, make: Any, broken: dict[int, int]) -> None:
        self.errors: dict[int, SegueError] = {}
        self._broken = broken
        super().__init__(runner, make)

    def _sequence(self, number: int, asked: TurnCase) -> DecodeSequence:
        sequence = super()._sequence(number, asked)
        if (at := self._broken.get(number)) is not None:
            take = sequence.answer._take

            def take_or_break(token_id: int) -> str:
                if sequence.answer.num_tokens == at:
                    raise RuntimeError("a bug in one answer")
                return take(token_id)

            sequence.answer._take = take_or_break  # type: ignore[method-assign]
        return sequence

    def _leave(self, number: int, became: TurnOutcome, event: TurnReleased) -> None:
        if event.error is not None:
            self.errors[number] = event.error
        super()._leave(number, became, event)


def asked(num: int = 4) -> list[TurnCase]:
    return [
        TurnCase(
            prompt=tuple(range(i + 1, i + 20)),
            stop=StopRules(max_tokens=8),
            sampling=Sampling(),
            at_step=i % 2,
            num_slots=2,
        )
        for i in range(num)
    ]


@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_error_in_one_answer_ends_only_that_answer(
    runner: ModelRunner, make: Callable[[Publish], DecodeEngine], at: int
) -> None:
    right = Observed(runner, make, {}).run(asked())
    turns = Observed(runner, make, {2: at})

    became = turns.run(asked())

    assert list(turns.errors) == [2]
    assert "a bug in one answer" in str(turns.errors[2])
    assert became[2].finish is None
    assert became[2].token_ids == right[2].token_ids[:at]
    for number in (0, 1, 3):
        assert became[number].token_ids == right[number].token_ids
        assert became[number].finish is FinishReason.LENGTH


class Flaky:
    """A forward pass that fails at the given calls."""

    def __init__(self, runner: ModelRunner, fails_at: set[int]) -> None:
        self._forward = runner.forward
        self._fails_at = fails_at
        self.num_calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.num_calls += 1
        if self.num_calls - 1 in self._fails_at:
            raise RuntimeError("out of memory")
        return self._forward(*arguments, **options)


def test_a_failed_pass_ends_its_turns_and_later_turns_are_served(
    runner: ModelRunner, make: Callable[[Publish], DecodeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Observed(runner, make, {}).run(asked())
    monkeypatch.setattr(runner, "forward", Flaky(runner, {0}))
    turns = Observed(runner, make, {})

    # The first two are admitted at step 0, and their prompts are in the pass that fails.
    became = turns.run(asked())

    assert sorted(turns.errors) == [0, 2]
    assert all(isinstance(error, Unavailable) for error in turns.errors.values())
    assert all("out of memory" in str(error) for error in turns.errors.values())
    assert [became[n].token_ids for n in (1, 3)] == [right[n].token_ids for n in (1, 3)]


def test_an_engine_with_several_failed_passes_in_a_row_is_broken(
    runner: ModelRunner, make: Callable[[Publish], DecodeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "forward", Flaky(runner, {0, 1}))

    with pytest.raises(RuntimeError, match="out of memory"):
        Observed(runner, make, {}).run(asked())
