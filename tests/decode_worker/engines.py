"""Turns run by an engine: admitted and dropped at given steps, with their memory passed on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decode_worker.engine.engine import DecodeEngine
from decode_worker.engine.events import Command, Event, NewTokens, TurnReleased
from decode_worker.engine.sequence import DecodeSequence
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, ShipReport, TurnSpec
from segue.api.types import (
    PageId,
    SampledToken,
    Sampling,
    SessionId,
    SlotId,
    StopRules,
    TurnId,
)
from segue.cache.layout import Unit
from segue.engine.answer import AnswerState
from segue.engine.device.buffers import RowStart
from segue.engine.device.launcher import Launched, Launcher, StepRequest
from segue.engine.device.result import Stepped
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SequenceSampler
from segue.engine.speculation.acceptance import SlotRing
from segue.grammar.compiler import CompiledGrammar
from segue.grammar.constraint import Constraint
from segue.worker.engine_thread import Drop
from tests.runners import new_runner

Publish = Callable[[Sequence[Event]], None]
PAGE_TOKENS = 16
MAX_RUNNING = 5
NUM_PAGES = 40
NUM_SLOTS = 32


def runner_of(folder: Path) -> ModelRunner:
    return new_runner(
        folder,
        page_tokens=PAGE_TOKENS,
        num_pages=NUM_PAGES,
        num_slots=NUM_SLOTS,
        with_scratch=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCase:
    prompt: tuple[int, ...]
    stop: StopRules
    sampling: Sampling
    at_step: int
    num_slots: int = 6
    grammar: CompiledGrammar | None = None
    reasoning_end: int | None = None
    dropped_at: int | None = None


@dataclass(slots=True)
class TurnOutcome:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[SampledToken] = field(default_factory=list)
    finish: FinishReason | None = None
    cached_tokens: tuple[int, ...] = ()
    checkpoint_tokens: int = 0
    checkpoint: list[Tensor] = field(default_factory=list)
    """The contents of its slot, field by field."""
    num_accepted: int = 0


class Turns:
    """The event loop's part. Memory that a turn leaves is filled with NaN at once, and must still
    be NaN when the next turn gets it: nothing may write it in between."""

    def __init__(self, runner: ModelRunner, engine: Callable[[Publish], DecodeEngine]) -> None:
        self._runner = runner
        self._engine = engine(self._publish)
        self._pages = [PageId(i) for i in range(NUM_PAGES)]
        self._slots = [SlotId(i) for i in range(NUM_SLOTS)]
        self._became: list[TurnOutcome] = []
        self._left: set[int] = set()
        self._poison(self._pages, self._slots)

    def run(self, asked: Sequence[TurnCase]) -> list[TurnOutcome]:
        self._became = [TurnOutcome() for _ in asked]
        has_more, step = True, 0
        while has_more or step <= max(one.at_step for one in asked):
            commands: list[Command] = []
            for number, one in enumerate(asked):
                if one.at_step == step:
                    commands.append(self._sequence(number, one))
                if one.dropped_at == step and number not in self._left:
                    commands.append(Drop(TurnId(str(number))))
            has_more = self._engine.step(commands)
            step += 1
            assert step < 500, "the engine does not finish"
        assert len(self._left) == len(asked)
        assert len(self._pages) == NUM_PAGES
        assert len(self._slots) == NUM_SLOTS
        return self._became

    def _sequence(self, number: int, asked: TurnCase) -> DecodeSequence:
        num_pages = -(-(len(asked.prompt) + asked.stop.max_tokens) // PAGE_TOKENS)
        pages = [self._pages.pop(0) for _ in range(num_pages)]
        slots = [self._slots.pop(0) for _ in range(asked.num_slots)]
        for tensor, units in self._memory(pages, slots):
            assert tensor[units].isnan().all(), "written after its turn had left"
            tensor[units] = 0
        turn = TurnSpec(
            turn_id=TurnId(str(number)),
            session_id=SessionId(str(number)),
            context=Prompt(asked.prompt),
            sampling=asked.sampling,
            stop=asked.stop,
        )
        return DecodeSequence(
            turn=turn,
            pages=pages,
            resident_tokens=0,
            ring=SlotRing(slots=tuple(slots), state=slots[0], num_tokens=0),
            answer=AnswerState(stop=asked.stop, tokenizer=None),
            sampler=SequenceSampler(
                asked.sampling,
                vocab_size=self._runner.config.vocab_size,
                prompt_ids=asked.prompt,
            ),
            report=ShipReport(),
            constraint=self._constraint(asked),
        )

    def _constraint(self, asked: TurnCase) -> Constraint | None:
        if asked.grammar is None and not asked.stop.min_tokens:
            return None
        return Constraint(
            vocab_size=self._runner.config.vocab_size,
            end_ids=asked.stop.stop_token_ids,
            min_tokens=asked.stop.min_tokens,
            grammar=asked.grammar,
            reasoning_end=asked.reasoning_end,
        )

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            number = int(event.turn_id)
            became = self._became[number]
            assert number not in self._left, "an event after it had left"
            if isinstance(event, NewTokens):
                became.token_ids += event.delta.token_ids
                became.logprobs += event.delta.logprobs
            else:
                self._leave(number, became, event)

    def _leave(self, number: int, became: TurnOutcome, event: TurnReleased) -> None:
        sequence = event.sequence
        ring = sequence.ring
        self._left.add(number)
        became.finish = event.result.finish_reason if event.result else None
        became.cached_tokens = tuple(sequence.cached_tokens)
        became.num_accepted = sequence.num_accepted
        if ring.checkpoint is not None:
            became.checkpoint_tokens = ring.checkpoint_tokens
            became.checkpoint = [
                tensor[ring.checkpoint].clone()
                for layer, tensor in self._runner.tensors.fields()
                if layer.unit is Unit.SLOT
            ]
        self._pages += sequence.pages
        self._slots += ring.slots
        self._poison(sequence.pages, ring.slots)

    def _poison(self, pages: Sequence[int], slots: Sequence[int]) -> None:
        for tensor, units in self._memory(pages, slots):
            tensor[units] = torch.nan

    def _memory(self, pages: Sequence[int], slots: Sequence[int]) -> list[tuple[Tensor, list[int]]]:
        units = {Unit.PAGE: list(pages), Unit.SLOT: list(slots)}
        return [(tensor, units[layer.unit]) for layer, tensor in self._runner.tensors.fields()]


class SlowDevice(Launcher):
    """Runs steps in the order of their launch, each only when its result or a later one's is
    awaited: the slowest possible device.
    """

    num_steps = 0
    max_position = 0

    def __init__(self, launcher: Launcher, num_ahead: int) -> None:
        self._launcher = launcher
        self.num_rows = launcher.num_rows
        self.num_ahead = num_ahead
        self._queue: deque[Callable[[], None]] = deque()

    def start(
        self,
        row: int,
        start: RowStart,
        params: Sampling,
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> None:
        prompt, answer = tuple(prompt_ids), tuple(answer_ids)
        self._queue.append(
            lambda: self._launcher.start(row, start, params, prompt_ids=prompt, answer_ids=answer)
        )

    def resume(
        self, row: int, num_left: int, mask: np.ndarray | None, *, is_first: bool = False
    ) -> None:
        self._queue.append(lambda: self._launcher.resume(row, num_left, mask, is_first=is_first))

    def launch(self, request: StepRequest) -> Launched:
        step = _Late(self._queue)
        self.num_steps += 1
        self.max_position = max(self.max_position, request.max_position)
        self._queue.append(lambda: step.run(self._launcher.launch(request)))
        if request.find_masks is not None:
            # The host waits for the drafts.
            step.wait()
        return step


class _Late:
    seconds = 0.001

    def __init__(self, queue: deque[Callable[[], None]]) -> None:
        self._queue = queue
        self._stepped: list[Stepped] | None = None

    def run(self, launched: Launched) -> None:
        self._stepped = launched.wait()

    def wait(self) -> list[Stepped]:
        while self._stepped is None:
            self._queue.popleft()()
        return self._stepped
