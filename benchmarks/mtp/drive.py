"""A decode engine alone: prompts in, answers out, every step timed. No network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import thread_time

from torch import Tensor

from decode_worker.config import DecodeConfig
from decode_worker.engine import DecodeEngine
from decode_worker.events import Admit, Event, Said
from decode_worker.metrics import DecodeMetrics
from decode_worker.sequence import DecodeSequence
from segue.cache.layout import Unit
from segue.engine.answer import Answer
from segue.engine.batch import Chunk
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SequenceSampler
from segue.engine.speculation import SlotRing
from segue.prompt import Prompt as TokenPrompt
from segue.turn import ShipReport, TurnSpec
from segue.types import PageId, Sampling, SessionId, SlotId, StopRules, TurnId


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    token_ids: tuple[int, ...]
    max_tokens: int
    eos_ids: tuple[int, ...] = ()
    """The answer ends with one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of nothing but answers, of a full batch. Seconds are the thread's processor time:
    others use the machine too, and torch computes on this thread alone."""

    num_tokens: int
    """Said, by all its sequences."""
    draft_s: float
    """The MTP layer's passes, and sampling drafts."""
    verify_s: float
    """The trunk's pass."""
    rest_s: float
    """Sampling, answers, events."""

    @property
    def seconds(self) -> float:
        return self.draft_s + self.verify_s + self.rest_s


@dataclass(slots=True)
class Seen:
    """What became of some prompts."""

    steps: list[Step] = field(default_factory=list)
    answers: list[tuple[int, ...]] = field(default_factory=list)
    """In the order of the prompts."""

    @property
    def tokens_per_s(self) -> float:
        assert self.steps, "no step of a full batch: the answers were too short for it"
        return sum(s.num_tokens for s in self.steps) / sum(s.seconds for s in self.steps)


class TimedRunner(ModelRunner):
    """Notes when the trunk's last pass was."""

    started_at = ended_at = 0.0

    def forward(
        self, chunks: Sequence[Chunk], *, on_layer: Callable[[int], None] | None = None
    ) -> Tensor:
        self.started_at = thread_time()
        logits_RV = super().forward(chunks, on_layer=on_layer)
        self.ended_at = thread_time()
        return logits_RV


class Drive:
    """An engine with one configuration; what it learned stays from run to run.

    The runner's pages and slots are divided among the sequences of a batch, and everything in them
    is written again by the next run: several engines may use one runner by turns.
    """

    def __init__(self, runner: TimedRunner, config: DecodeConfig) -> None:
        self._runner = runner
        self._metrics = DecodeMetrics()
        self._events: list[Event] = []
        self._config = config
        self._engine = DecodeEngine(
            runner, self._metrics, self._events.extend, config, clock=thread_time
        )
        self._numbers = itertools.count()
        self._num_pages = next(
            len(tensor) for f, tensor in runner.tensors.fields() if f.unit is Unit.PAGE
        )

    def run(self, prompts: Sequence[Prompt], batch_size: int) -> Seen:
        """All prompts, `batch_size` at once; the next ones come in when all answers have ended.

        Steps that hold a prompt, or fewer sequences than that, are not among the steps.
        """
        seen = Seen()
        for first in range(0, len(prompts), batch_size):
            self._together(prompts[first : first + batch_size], batch_size, seen)
        return seen

    def _together(self, prompts: Sequence[Prompt], batch_size: int, seen: Seen) -> None:
        sequences = [self._sequence(p, place, batch_size) for place, p in enumerate(prompts)]
        commands = [Admit(sequence) for sequence in sequences]
        num_running = len(sequences)
        while num_running:
            is_counted = num_running == batch_size and not any(s.is_in_prompt for s in sequences)
            started_at = thread_time()
            self._engine.step(commands)
            ended_at = thread_time()
            commands = []
            said = [event for event in self._events if isinstance(event, Said)]
            num_running -= len(self._events) - len(said)
            self._events.clear()
            if is_counted:
                seen.steps.append(
                    Step(
                        num_tokens=sum(len(event.delta.token_ids) for event in said),
                        draft_s=self._runner.started_at - started_at,
                        verify_s=self._runner.ended_at - self._runner.started_at,
                        rest_s=ended_at - self._runner.ended_at,
                    )
                )
        seen.answers += [tuple(sequence.answer_ids) for sequence in sequences]

    def accepted_shares(self) -> list[float]:
        """Of all drafts so far at each place: the share that was accepted, all before it too."""
        registry = self._metrics.registry
        num_drafts = registry.get_sample_value("segue_spec_decode_drafts_total") or 1.0
        name = "segue_spec_decode_accepted_tokens_per_pos_total"
        return [
            (registry.get_sample_value(name, {"position": str(place)}) or 0.0) / num_drafts
            for place in range(self._config.max_drafts)
        ]

    def _sequence(self, prompt: Prompt, place: int, batch_size: int) -> DecodeSequence:
        number = next(self._numbers)
        # Equal for the same prompt in every mode.
        sampling = Sampling(seed=number)
        stop = StopRules(max_tokens=prompt.max_tokens, stop_token_ids=prompt.eos_ids)
        num_pages = self._num_pages // batch_size
        num_slots = self._config.max_drafts + 2
        slots = tuple(SlotId(place * num_slots + i) for i in range(num_slots))
        return DecodeSequence(
            turn=TurnSpec(
                turn_id=TurnId(str(number)),
                session_id=SessionId(str(number)),
                context=TokenPrompt(prompt.token_ids),
                sampling=sampling,
                stop=stop,
            ),
            pages=[PageId(place * num_pages + i) for i in range(num_pages)],
            resident_tokens=0,
            ring=SlotRing(slots=slots, state=slots[0], num_tokens=0),
            answer=Answer(stop=stop, tokenizer=None),
            sampler=SequenceSampler(
                sampling, vocab_size=self._runner.config.vocab_size, prompt_ids=prompt.token_ids
            ),
            report=ShipReport(),
        )
