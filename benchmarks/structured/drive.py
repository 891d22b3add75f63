"""A decode engine alone, with some turns that follow a grammar. No network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import process_time

from decode_worker.config import DecodeConfig
from decode_worker.engine.engine import DecodeEngine
from decode_worker.engine.events import Event, NewTokens
from decode_worker.engine.sequence import DecodeSequence
from decode_worker.metrics import DecodeMetrics
from segue.api.prompt import Prompt
from segue.api.turn import ShipReport, TurnSpec
from segue.api.types import PageId, Sampling, SessionId, SlotId, StopRules, TurnId
from segue.cache.layout import Unit
from segue.engine.answer import AnswerState
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SequenceSampler
from segue.engine.speculation.acceptance import SlotRing
from segue.grammar.compiler import CompiledGrammar
from segue.grammar.constraint import Constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    prompt: tuple[int, ...]
    num_tokens: int
    """Exactly so many."""
    grammar: CompiledGrammar | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of a whole batch, without prompts."""

    seconds: tuple[float, ...]
    num_tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / sum(self.seconds)


class Drive:
    def __init__(self, runner: ModelRunner, *, max_drafts: int, unused_id: int) -> None:
        """`unused_id`: a token that no answer has; it stands for the end token."""
        self._runner = runner
        self._max_drafts = max_drafts
        self._unused_id = unused_id
        self._events: list[Event] = []
        self._engine = DecodeEngine(
            runner,
            DecodeMetrics(),
            self._events.extend,
            DecodeConfig(max_drafts=max_drafts, adaptive_drafts=False),
        )
        self._numbers = itertools.count()
        self._num_pages = next(
            len(tensor) for f, tensor in runner.tensors.fields() if f.unit is Unit.PAGE
        )

    def run(self, cases: Sequence[Case]) -> Steps:
        sequences = [self._sequence(case, i, len(cases)) for i, case in enumerate(cases)]
        commands = list(sequences)
        seconds, num_tokens, num_running = [], 0, len(cases)
        while num_running:
            is_whole = num_running == len(cases) and not any(s.is_in_prompt for s in sequences)
            started_at = process_time()
            self._engine.step(commands)
            passed = process_time() - started_at
            commands = []
            grown = [event for event in self._events if isinstance(event, NewTokens)]
            num_running -= len(self._events) - len(grown)
            self._events.clear()
            if is_whole:
                seconds.append(passed)
                num_tokens += sum(len(event.delta.token_ids) for event in grown)
        return Steps(tuple(seconds), num_tokens)

    def _sequence(self, case: Case, place: int, num: int) -> DecodeSequence:
        number = next(self._numbers)
        stop = StopRules(max_tokens=case.num_tokens, stop_token_ids=(self._unused_id,))
        turn = TurnSpec(
            turn_id=TurnId(str(number)),
            session_id=SessionId(str(number)),
            context=Prompt(case.prompt),
            sampling=Sampling(),
            stop=stop,
        )
        vocab_size = self._runner.config.vocab_size
        num_pages, num_slots = self._num_pages // num, self._max_drafts + 2
        slots = tuple(SlotId(place * num_slots + i) for i in range(num_slots))
        sequence = DecodeSequence(
            turn=turn,
            pages=[PageId(place * num_pages + i) for i in range(num_pages)],
            resident_tokens=0,
            ring=SlotRing(slots=slots, state=slots[0], num_tokens=0),
            answer=AnswerState(stop=stop, tokenizer=None),
            sampler=SequenceSampler(turn.sampling, vocab_size=vocab_size, prompt_ids=case.prompt),
            report=ShipReport(),
        )
        if case.grammar is None:
            return sequence
        return replace(
            sequence,
            constraint=Constraint(
                vocab_size=vocab_size, end_ids=stop.stop_token_ids, grammar=case.grammar
            ),
        )
