"""The engine thread of a prefill worker: receive, schedule, forward (and ship), sample, publish.

The thread owns a sequence from its submission until it calls the sequence's `done`, exactly once.
Until then the sequence's pages and slot are in use.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kv_transfer.ranks.leading import Sending
from prefill_worker.metrics import PrefillMetrics
from prefill_worker.scheduler import (
    SCORED_TOKEN_COST,
    Progress,
    ScheduledChunk,
    complete_pages,
    plan_chunks,
)
from segue.api.errors import SegueError
from segue.api.turn import PromptLogprobs, TurnSpec
from segue.api.types import PageId, SampledToken, SlotId, TurnId
from segue.engine.batch import PrefillChunk
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SamplerRow, SequenceSampler, sample
from segue.engine.scoring import TokenScores
from segue.process.telemetry import Clock
from segue.worker.engine_thread import Drop, Failures
from segue.worker.grammars import Making
from segue.worker.watchdog import EngineProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A prompt's pages and state are written, and its first token is sampled."""

    first_token: SampledToken
    started_at: float
    ended_at: float
    num_chunks: int = 1
    prompt_logprobs: PromptLogprobs | None = None


@dataclass(slots=True, kw_only=True)
class PrefillSequence:
    """One prompt that is being computed."""

    turn: TurnSpec
    pages: Sequence[PageId]
    """The pages of the whole prompt. Those before `start` are shared and read-only."""
    slot: SlotId
    """Takes the state after the prompt."""
    outgoing: Sending
    done: Callable[[Computed | SegueError | None], None]
    """Called on the engine thread; None when the sequence was dropped."""
    start: int = 0
    """The first token to compute; the state before it is in `state_slot`."""
    state_slot: SlotId | None = None
    checkpoints: Mapping[int, SlotId] = field(default_factory=dict)
    """Slots for states at positions on the way: position to slot."""
    constraint: Making | None = None
    """Restricts the first token. The last chunk waits for it."""
    num_computed: int = field(default=0)
    started_at: float = field(default=0.0)
    num_chunks: int = field(default=0)
    scores: TokenScores = field(default_factory=TokenScores)

    def __post_init__(self) -> None:
        self.num_computed = self.start

    @property
    def progress(self) -> Progress:
        cost = SCORED_TOKEN_COST if self.turn.scores_prompt else 1
        is_made = self.constraint is None or self.constraint.done()
        return Progress(self.num_computed, len(self.turn.context) - (not is_made), cost)

    @property
    def prompt_logprobs(self) -> PromptLogprobs | None:
        """Once the whole prompt is computed, if they are wanted."""
        if not self.turn.scores_prompt:
            return None
        return self.scores.of_prompt(self.turn.prompt_ids)


@dataclass(frozen=True, slots=True)
class ConstraintMade:
    """Wakes the engine."""


Command = PrefillSequence | Drop | ConstraintMade


class PrefillEngine:
    def __init__(
        self,
        runner: ModelRunner,
        metrics: PrefillMetrics,
        *,
        chunk_tokens: int,
        progress: EngineProgress,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._metrics = metrics
        self._chunk_tokens = chunk_tokens
        self._progress = progress
        self._clock = clock
        self._waiting: list[PrefillSequence] = []
        self._failures = Failures()

    def step(self, commands: Sequence[Command]) -> bool:
        """One pass over one batch of chunks. Returns whether there is more to do."""
        self._receive(commands)
        chunks = self._schedule()
        if chunks:
            batch = [(self._waiting[chunk.index], chunk) for chunk in chunks]
            try:
                self._compute(batch)
            except Exception as error:
                failure = self._failures.of_pass(error)
                self._drop([s for s, _ in batch if s in self._waiting], failure)
            else:
                self._failures.passed()
        return any(sequence.progress.num_left for sequence in self._waiting)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case PrefillSequence() as sequence:
                    self._waiting.append(sequence)
                case Drop(turn_id):
                    self._drop([s for s in self._waiting if s.turn.turn_id == turn_id])

    def _schedule(self) -> list[ScheduledChunk]:
        # There is no point in computing a prompt whose handoff has failed or was fenced.
        self._drop([s for s in self._waiting if not s.outgoing.is_open])
        return plan_chunks([s.progress for s in self._waiting], self._chunk_tokens)

    def _compute(self, batch: Sequence[tuple[PrefillSequence, ScheduledChunk]]) -> None:
        started_at = self._clock()
        failed = self._announce(batch, started_at)

        def ship(layer: int) -> None:
            self._progress.beat(is_shipping=True)
            for sequence, chunk in batch:
                if sequence.turn.turn_id not in failed:
                    try:
                        pages, is_last = self._shipped(sequence, chunk)
                        sequence.outgoing.layer_ready(layer, pages=pages, with_slot=is_last)
                    except Exception as error:
                        failed[sequence.turn.turn_id] = self._failures.of_sequence(error)
            self._progress.beat()

        logits_NV = self._runner.forward(
            [_to_forward(sequence, chunk) for sequence, chunk in batch],
            on_layer=ship,
            on_scores=lambda index, scores: batch[index][0].scores.extend(scores),
        )
        ended = []
        for row, (sequence, chunk) in enumerate(batch):
            sequence.num_computed = chunk.end
            sequence.num_chunks += 1
            sequence.state_slot = _slot_out(sequence, chunk)
            if chunk.end == len(sequence.turn.context):
                ended.append((row, sequence))
        self._metrics.computed(
            num_tokens=sum(chunk.end - chunk.start for _, chunk in batch),
            num_sequences=len(batch),
            seconds=self._clock() - started_at,
        )
        to_sample = self._sampler_rows(ended, failed)
        self._drop_failed([sequence for sequence, _ in batch], failed)
        if to_sample:
            rows, sequences, samplers = zip(*to_sample, strict=True)
            self._publish(sequences, sample(logits_NV[list(rows)], samplers))

    def _announce(
        self, batch: Sequence[tuple[PrefillSequence, ScheduledChunk]], started_at: float
    ) -> dict[TurnId, SegueError]:
        """Announces what the pass will ship. Returns the errors of those for which that failed."""
        failed: dict[TurnId, SegueError] = {}
        for sequence, chunk in batch:
            if chunk.start == sequence.start:
                sequence.started_at = started_at
            try:
                pages, is_last = self._shipped(sequence, chunk)
                sequence.outgoing.announce(pages=pages, with_slot=is_last)
            except Exception as error:
                failed[sequence.turn.turn_id] = self._failures.of_sequence(error)
        return failed

    def _sampler_rows(
        self,
        ended: Sequence[tuple[int, PrefillSequence]],
        failed: dict[TurnId, SegueError],
    ) -> list[tuple[int, PrefillSequence, SamplerRow]]:
        """The sampler rows of the first tokens, for the sequences that have not failed."""
        rows = []
        for row, sequence in ended:
            turn_id = sequence.turn.turn_id
            if turn_id not in failed:
                try:
                    rows.append((row, sequence, self._row(sequence)))
                except Exception as error:
                    failed[turn_id] = self._failures.of_sequence(error)
        return rows

    def _shipped(self, sequence: PrefillSequence, chunk: ScheduledChunk) -> tuple[range, bool]:
        """The pages that each layer of this chunk completes, and whether the state is final too."""
        is_last = chunk.end == len(sequence.turn.context)
        pages = complete_pages(
            # The cached pages are shipped with the first computed ones.
            0 if chunk.start == sequence.start else chunk.start,
            chunk.end,
            is_last=is_last,
            page_tokens=self._runner.layout.page_tokens,
        )
        return pages, is_last

    def _row(self, sequence: PrefillSequence) -> SamplerRow:
        turn = sequence.turn
        sampler = SequenceSampler(
            turn.sampling,
            vocab_size=self._runner.config.vocab_size,
            prompt_ids=turn.prompt_ids,
            answer_ids=turn.answered_ids,
            device=self._runner.device,
        )
        constraint = sequence.constraint.result() if sequence.constraint else None
        mask = constraint.mask() if constraint and constraint.is_masking else None
        return SamplerRow(sampler, position=len(turn.context), mask=mask)

    def _publish(
        self, sequences: Sequence[PrefillSequence], tokens: Sequence[SampledToken]
    ) -> None:
        ended_at = self._clock()
        for sequence, token in zip(sequences, tokens, strict=True):
            self._waiting.remove(sequence)
            sequence.done(
                Computed(
                    first_token=token,
                    started_at=sequence.started_at,
                    ended_at=ended_at,
                    num_chunks=sequence.num_chunks,
                    prompt_logprobs=sequence.prompt_logprobs,
                )
            )

    def _drop(self, sequences: Sequence[PrefillSequence], error: SegueError | None = None) -> None:
        for sequence in sequences:
            self._waiting.remove(sequence)
            sequence.done(error)

    def _drop_failed(
        self, sequences: Sequence[PrefillSequence], failed: Mapping[TurnId, SegueError]
    ) -> None:
        for sequence in sequences:
            if error := failed.get(sequence.turn.turn_id):
                self._drop([sequence], error)


def _to_forward(sequence: PrefillSequence, chunk: ScheduledChunk) -> PrefillChunk:
    turn, scored_ids = sequence.turn, array("I")
    if turn.scores_prompt:
        scored_ids = turn.prompt_ids[chunk.start + 1 : chunk.end + 1]
    return PrefillChunk(
        token_ids=turn.context.tokens[chunk.start : chunk.end],
        start=chunk.start,
        page_ids=sequence.pages,
        slot_in=sequence.state_slot,
        slot_out=_slot_out(sequence, chunk),
        checkpoints=[
            (position, slot)
            for position, slot in sorted(sequence.checkpoints.items())
            if chunk.start < position < chunk.end
        ],
        scored_ids=scored_ids,
        num_top=turn.sampling.prompt_logprobs or 0,
    )


def _slot_out(sequence: PrefillSequence, chunk: ScheduledChunk) -> SlotId:
    """A chunk that ends at a state to keep writes it to its slot; the next chunk only reads it."""
    return sequence.checkpoints.get(chunk.end, sequence.slot)
