"""The engine thread of a decode worker: receive, schedule, draft, forward, sample, publish.

The thread owns a sequence from `Admit` until it publishes the sequence's `Left`; until then the
sequence's pages and slot are in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain, islice

from decode_worker.config import DecodeConfig
from decode_worker.drafting import DraftCount, Verified, draft
from decode_worker.events import Admit, Command, Drop, Event, Left, Said, prefilled_here, result_of
from decode_worker.metrics import DecodeMetrics
from decode_worker.scheduler import next_batch
from decode_worker.sequence import DecodeSequence
from segue.engine.failures import Failures
from segue.engine.runner import ModelRunner
from segue.engine.sampler import sample
from segue.engine.speculation import num_accepted, num_simulated
from segue.errors import SegueError
from segue.telemetry import Clock
from segue.turn import TokenDelta
from segue.types import SampledToken


class DecodeEngine:
    def __init__(
        self,
        runner: ModelRunner,
        metrics: DecodeMetrics,
        publish: Callable[[Sequence[Event]], None],
        config: DecodeConfig,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._page_tokens = runner.layout.page_tokens
        self._metrics = metrics
        self._publish = publish
        self._config = config
        self._clock = clock
        self._running: list[DecodeSequence] = []
        self._failures = Failures()
        self._draft_count = DraftCount(runner, config)

    @property
    def draft_reach(self) -> int:
        """For how many drafts a sequence that begins now should have slots. Any thread may read."""
        return self._draft_count.reach

    def step(self, commands: Sequence[Command]) -> bool:
        """One pass over one batch: a token or more for each of its sequences. Returns whether there
        is more to do.
        """
        self._receive(commands)
        if not self._running:
            return False
        batch, self._running = next_batch(
            self._running,
            self._config.max_batch,
            num_prompt_tokens=lambda s: s.num_prompt_left,
            max_prompt_tokens=self._config.max_prompt_tokens,
        )
        try:
            self._pass_over(batch)
        except Exception as error:
            told = self._failures.of_pass(error)
            self._publish([self._failed(s, told) for s in batch if s in self._running])
        else:
            self._failures.passed()
        return bool(self._running)

    def _pass_over(self, batch: Sequence[DecodeSequence]) -> None:
        started_at = self._clock()
        answering = [sequence for sequence in batch if not sequence.is_in_prompt]
        num_wanted = self._draft_count.choose(answering)
        draft(self._runner, answering, num_wanted)
        if answering:
            self._metrics.drafted(len(answering), num_wanted)
        rows = [sequence.next_rows() for sequence in batch]
        logits_RV = self._runner.forward([s.next_chunk(self._page_tokens) for s in batch])
        tokens = iter(sample(logits_RV, list(chain.from_iterable(rows))))
        ended_at = self._clock()
        events: list[Event] = []
        verified: list[Verified] = []
        for sequence, of_sequence in zip(batch, rows, strict=True):
            targets = list(islice(tokens, len(of_sequence)))
            try:
                if sequence.is_in_prompt:
                    self._prefilled(sequence, started_at, ended_at)
                    delta = _push(sequence, targets)
                else:
                    one, delta = self._verify(sequence, targets)
                    verified.append(one)
                events += self._events(sequence, delta)
            except Exception as error:
                events.append(self._failed(sequence, self._failures.of_sequence(error)))
        self._publish(events)
        seconds = self._clock() - started_at
        if len(answering) == len(batch):
            self._draft_count.stepped(num_wanted, seconds, verified)
        self._metrics.stepped(verified, num_sequences=len(batch), seconds=seconds)

    def _failed(self, sequence: DecodeSequence, error: SegueError) -> Left:
        if sequence in self._running:
            self._running.remove(sequence)
        return Left(sequence.turn.turn_id, None, sequence, error)

    def _receive(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Admit(sequence):
                    sequence.admitted_at = sequence.first_at = self._clock()
                    self._running.append(sequence)
                    if sequence.first_token is not None:
                        self._publish(self._begun(sequence, sequence.first_token))
                case Drop(turn_id):
                    dropped = [s for s in self._running if s.turn.turn_id == turn_id]
                    for sequence in dropped:
                        self._running.remove(sequence)
                        self._publish([Left(turn_id, None, sequence)])

    def _begun(self, sequence: DecodeSequence, first: SampledToken) -> list[Event]:
        """The prompt is complete, and the turn may end with this token."""
        try:
            sequence.keep_checkpoint(self._page_tokens)
            return self._events(sequence, _push(sequence, [first]))
        except Exception as error:
            return [self._failed(sequence, self._failures.of_sequence(error))]

    def _prefilled(self, sequence: DecodeSequence, started_at: float, ended_at: float) -> None:
        num_computed = sequence.num_prompt_left
        sequence.first_at = ended_at
        sequence.report = prefilled_here(sequence, started_at=started_at, ended_at=ended_at)
        self._metrics.prefilled_here(num_computed)
        sequence.prompt_computed(self._page_tokens)

    def _verify(
        self, sequence: DecodeSequence, targets: Sequence[SampledToken]
    ) -> tuple[Verified, TokenDelta]:
        """Goes on by the drafts that are the model's own tokens, and by the one after them; the
        answer may end before.
        """
        drafts = sequence.drafts
        if self._config.simulates_acceptance:
            accepted = num_simulated(
                len(drafts),
                rate=self._config.simulate_acceptance,
                seed=sequence.sampler.params.seed,
                position=sequence.num_cached + 1,
            )
            # What the state contains is what has to be said.
            targets = [*(SampledToken(token_id=d) for d in drafts[:accepted]), targets[accepted]]
        else:
            accepted = num_accepted(drafts, [token.token_id for token in targets])
        delta = _push(sequence, targets[: accepted + 1])
        sequence.run_computed(len(delta.token_ids), self._page_tokens)
        return Verified(len(drafts), accepted, len(delta.token_ids)), delta

    def _events(self, sequence: DecodeSequence, delta: TokenDelta) -> list[Event]:
        turn_id = sequence.turn.turn_id
        if sequence.answer.finish is None:
            return [Said(turn_id, delta)]
        self._running.remove(sequence)
        result = result_of(sequence, ended_at=self._clock())
        return [Said(turn_id, delta), Left(turn_id, result, sequence)]


def _push(sequence: DecodeSequence, tokens: Sequence[SampledToken]) -> TokenDelta:
    """Adds to the answer what belongs to it."""
    delta = sequence.answer.push_run(tokens)
    for token_id in delta.token_ids:
        sequence.answer_ids.append(token_id)
        sequence.sampler.observe(token_id)
    return delta
