"""The steppers of an engine, which compute the next tokens of a batch.

HostStepper     draft ─▶ forward ─▶ sample ─▶ accept, one call each; then the step is done
DeviceStepper   launches one captured step over some rows; its result is read later
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from itertools import chain, islice
from operator import or_
from typing import Protocol

import numpy as np

from decode_worker.config import DecodeConfig
from decode_worker.engine.sequence import DecodeSequence
from segue.api.types import SampledToken, TurnId
from segue.engine.device.buffers import RowStart
from segue.engine.device.launcher import CompletedStep, Launched, Launcher, StepRequest
from segue.engine.device.result import Stepped
from segue.engine.runner import ModelRunner
from segue.engine.sampler import sample, sample_ids
from segue.engine.speculation.acceptance import num_accepted, num_simulated
from segue.grammar.constraint import Constraint
from segue.worker.watchdog import EngineProgress


class Stepper(Protocol):
    """Used on the engine's thread."""

    @property
    def num_ahead(self) -> int:
        """Steps to launch before the oldest one's result is read."""
        ...

    def start(self, sequence: DecodeSequence) -> None:
        """Called when the prompt is in the cache and the answer has its first token."""
        ...

    def launch(self, batch: Sequence[DecodeSequence], num_drafts: int) -> Launched:
        """Launches a step with at most `num_drafts` drafts for each sequence. Its result is in the
        order of the batch."""
        ...

    def end(self, sequence: DecodeSequence) -> None:
        """Called when no step with this sequence is in flight and none will be launched. The
        sequence may not have been started."""
        ...


class HostStepper:
    """Computes a step call by call. Also takes prompt suffixes, in one pass with the answers, and
    samples their first tokens."""

    num_ahead = 0

    def __init__(self, runner: ModelRunner, config: DecodeConfig, progress: EngineProgress) -> None:
        self._runner = runner
        self._progress = progress
        self._page_tokens = runner.layout.page_tokens
        self._config = config

    def start(self, sequence: DecodeSequence) -> None:
        # The sampler was created with the tokens before these.
        for token_id in sequence.answer_ids[sequence.turn.num_answered :]:
            sequence.sampler.observe(token_id)

    def launch(self, batch: Sequence[DecodeSequence], num_drafts: int) -> Launched:
        constrained = [sequence for sequence in batch if sequence.constraint is not None]
        _draft(self._runner, batch, num_drafts)
        _find_masks(constrained)
        logits_RV = self._runner.forward(
            [s.next_chunk(self._page_tokens) for s in batch],
            on_layer=lambda layer: self._progress.beat(),
        )
        rows = [sequence.next_rows() for sequence in batch]
        for sequence in constrained:
            sequence.take_drafts_back()
        targets = iter(sample(logits_RV, list(chain.from_iterable(rows))))
        return CompletedStep(
            [
                self._accept(sequence, list(islice(targets, len(of_sequence))))
                for sequence, of_sequence in zip(batch, rows, strict=True)
            ]
        )

    def end(self, sequence: DecodeSequence) -> None:
        """Does nothing: all state is in the sequence."""

    def _accept(self, sequence: DecodeSequence, targets: Sequence[SampledToken]) -> Stepped:
        """The accepted drafts, and the token after them."""
        if sequence.is_in_prompt:
            return Stepped(targets, 0)
        drafts, sequence.drafts = sequence.drafts, []
        if self._config.simulates_acceptance:
            accepted = num_simulated(
                len(drafts),
                rate=self._config.simulate_acceptance,
                seed=sequence.sampler.params.seed,
                position=sequence.num_cached + 1,
            )
            # The answer must have the tokens that the state was computed from.
            targets = [*(SampledToken(token_id=d) for d in drafts[:accepted]), targets[accepted]]
        else:
            accepted = num_accepted(drafts, [token.token_id for token in targets])
        tokens = targets[: accepted + 1]
        for token in tokens:
            sequence.sampler.observe(token.token_id)
        return Stepped(tokens, len(drafts))


def _find_masks(sequences: Sequence[DecodeSequence]) -> None:
    """A mask takes some 20 µs. Finding them on another thread during the pass took longer."""
    for sequence in sequences:
        sequence.find_mask()


def _draft(runner: ModelRunner, batch: Sequence[DecodeSequence], num_drafts: int) -> None:
    """Gives each sequence `num_drafts` drafts, or fewer if it has no room for more."""
    counts = {id(s): min(num_drafts, s.max_drafts) for s in batch}
    drafting = sorted((s for s in batch if counts[id(s)]), key=lambda s: -counts[id(s)])
    if not drafting:
        return
    drafter = runner.drafter([s.draft_start() for s in drafting])
    token_ids = [s.answer_ids[-1] for s in drafting]
    for depth in range(num_drafts):
        drafting = [s for s in drafting if counts[id(s)] > depth]
        if not drafting:
            break
        logits_DV = drafter.step(token_ids[: len(drafting)])
        _find_masks([s for s in drafting if s.constraint is not None])
        token_ids = sample_ids(logits_DV, [s.draft_row() for s in drafting])
        for sequence, token_id in zip(drafting, token_ids, strict=True):
            sequence.add_draft(token_id)


def _num_left(sequence: DecodeSequence) -> int:
    return sequence.turn.stop.max_tokens - len(sequence.answer_ids)


def _end_ids(sequence: DecodeSequence) -> list[int]:
    """Tokens after which the device waits for the host: its step knows only the first few."""
    end_ids = sorted(sequence.answer.end_ids)
    constraint = sequence.constraint
    if constraint is None or constraint.reasoning_end is None:
        return end_ids
    return [constraint.reasoning_end, *end_ids]


class DeviceStepper:
    """Launches steps that run entirely on the device, which also counts tokens for penalties.
    Keeps the row of each sequence.

    A row continues until its mask changes; then the host resumes it with another mask. In a grammar
    that is after each step.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.num_ahead = launcher.num_ahead
        self._rows: dict[TurnId, int] = {}
        self._free_rows = list(range(launcher.num_rows))

    def start(self, sequence: DecodeSequence) -> None:
        turn, ring = sequence.turn, sequence.ring
        row = self._rows[turn.turn_id] = self._free_rows.pop()
        self._launcher.start(
            row,
            RowStart(
                last_token=sequence.answer_ids[-1],
                position=sequence.num_cached,
                num_left=0 if sequence.constraint else _num_left(sequence),
                page_ids=sequence.pages,
                slots=ring.slots,
                state=ring.state,
                checkpoint=ring.checkpoint,
                end_ids=_end_ids(sequence),
            ),
            turn.sampling,
            prompt_ids=turn.prompt_ids,
            answer_ids=sequence.answer_ids,
        )

    def launch(self, batch: Sequence[DecodeSequence], num_drafts: int) -> Launched:
        for sequence in batch:
            if sequence.constraint is not None and not sequence.in_flight:
                self._resume(sequence, sequence.constraint, num_drafts)
        follows = any(s.constraint and s.constraint.follows_grammar for s in batch)
        return self._launcher.launch(
            StepRequest(
                rows=[self._rows[s.turn.turn_id] for s in batch],
                num_drafts=num_drafts,
                max_position=max(s.max_position for s in batch),
                num_logprobs=[s.turn.sampling.logprobs for s in batch],
                needs=reduce(or_, (s.needs for s in batch)),
                find_masks=partial(self._find_masks, batch) if follows and num_drafts else None,
            )
        )

    def _find_masks(
        self, batch: Sequence[DecodeSequence], drafts: Sequence[Sequence[int]]
    ) -> dict[int, list[np.ndarray]]:
        return {
            self._rows[sequence.turn.turn_id]: sequence.constraint.masks_along(of_sequence)
            for sequence, of_sequence in zip(batch, drafts, strict=True)
            if sequence.constraint is not None and sequence.constraint.follows_grammar
        }

    def _resume(self, sequence: DecodeSequence, constraint: Constraint, num_drafts: int) -> None:
        num_left = _num_left(sequence)
        if constraint.follows_grammar:
            # For one step only: the next one needs other masks.
            num_left = min(num_left, num_drafts + 1)
        elif constraint.num_steady is not None:
            num_left = min(num_left, constraint.num_steady)
        sequence.is_masked_until_read = constraint.is_masking
        row = self._rows[sequence.turn.turn_id]
        self._launcher.resume(
            row,
            num_left,
            constraint.mask() if constraint.is_masking else None,
            is_first=constraint.follows_grammar,
        )

    def end(self, sequence: DecodeSequence) -> None:
        row = self._rows.pop(sequence.turn.turn_id, None)
        if row is not None:
            self._free_rows.append(row)
