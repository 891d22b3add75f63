"""Measures one turn's events, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator

from router.metrics import RouterMetrics
from router.telemetry.conventions import operation_of
from router.telemetry.traces import TurnTrace
from router.turn.lifecycle import outcome_of
from segue.api.errors import SegueError
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent, Usage
from segue.api.types import ChatInput, TurnInput
from segue.process.telemetry import Clock, about_turn

logger = logging.getLogger(__name__)

# A block that takes less has not waited: no other task has run.
_NO_WAIT_S = 0.001
_FINISHED = frozenset({FinishReason.STOP.value, FinishReason.LENGTH.value})


class TurnMeter:
    """Every turn ends once: `refused` before it ran, or `ended` after it did."""

    def __init__(
        self,
        metrics: RouterMetrics,
        clock: Clock,
        received_at: float,
        tenant: str,
        turn_input: TurnInput,
        trace: TurnTrace,
    ) -> None:
        self._metrics = metrics
        self.trace = trace
        self.operation = operation_of(turn_input)
        self._error = ""
        self._turn_number = 0
        self._tenant = tenant
        self._clock = clock
        self._received_at = received_at
        self._first_token_at: float | None = None
        self._last_token_at = 0.0
        self._usage: Usage | None = None

    def has_whole(self, turn_input: TurnInput) -> None:
        """The input with the messages that the router has added."""
        self._turn_number = turn_number(turn_input)

    def measure(self, events: Iterable[TurnEvent], arrived_at: float) -> None:
        for event in events:
            if isinstance(event, TokenDelta):
                self.arrived(event, arrived_at)
            elif isinstance(event, TurnEnd):
                self.finished(event)

    def arrived(self, delta: TokenDelta, arrived_at: float) -> None:
        num_tokens, latency = len(delta.token_ids), self._metrics.latency
        if self._first_token_at is None:
            self._first_token_at = arrived_at
            self._first_token(arrived_at - self._received_at)
            self.trace.first_token(arrived_at)
        else:
            # Tokens that arrive together each count an equal share of the wait.
            latency.inter_token_s.observe((arrived_at - self._last_token_at) / max(num_tokens, 1))
        self._last_token_at = arrived_at
        self._metrics.tokens.completion.inc(num_tokens)
        self._metrics.load.rate.add(num_tokens)

    def _first_token(self, took_s: float) -> None:
        exemplar = self.trace.exemplar
        self._metrics.latency.first_token_s.observe(took_s, exemplar)
        self._metrics.gen_ai.first_token(self.operation, took_s, exemplar)
        if self._turn_number:
            label = turn_class(self._turn_number)
            self._metrics.latency.chat_first_token_s.labels(label).observe(took_s, exemplar)

    def relayed(self, arrived_at: float) -> None:
        """The events of `arrived_at` were sent to the client."""
        self._metrics.latency.relay_s.observe(self._clock() - arrived_at)

    def finished(self, end: TurnEnd) -> None:
        metrics = self._metrics
        self.trace.finished(end)
        metrics.load.drafted_tokens += end.usage.drafted_tokens
        metrics.load.accepted_tokens += end.usage.accepted_tokens
        if end.finish_reason is not FinishReason.CANCELLED:
            self._usage = end.usage
        if end.timings.first_token_s:
            metrics.latency.queue_s.observe(end.timings.queue_s)
            metrics.latency.dispatch_s.observe(end.timings.router_s)
        metrics.tokens.prompt.inc(end.usage.prompt_tokens)
        metrics.tokens.cached.inc(end.usage.cached_tokens)
        metrics.tokens.resident.inc(end.usage.resident_tokens)
        metrics.tokens.rerendered.inc(end.usage.rerendered_tokens)
        metrics.tokens.rerendered_turns.inc(end.usage.rerendered_tokens > 0)

    def computed(self, expected: int) -> int:
        """The computed tokens of the prompt; `expected` for a turn that did not finish."""
        usage = self._usage
        if usage is None:
            return expected
        return max(usage.prompt_tokens - usage.cached_tokens - usage.pulled_tokens, 0)

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Counts an error that prevents the turn from running."""
        try:
            yield
        except SegueError as error:
            self.refused(error)
            raise

    @contextlib.contextmanager
    def turn(self, turn_id: str) -> Iterator[None]:
        """The whole turn: logs and traces name it, and an error that ends it is counted, whether it
        ran or not."""
        with about_turn(turn_id), self.trace.running(self.operation, turn_id, self._tenant):
            try:
                yield
            except Exception as error:
                self.failed(error)
                raise

    def failed(self, error: Exception) -> None:
        self._error = error_class(error)
        self._metrics.load.errors.labels(self._error).inc()

    def tried_again(self, error: SegueError, num_answered: int) -> None:
        self.trace.tried_again(error, num_answered)
        self._metrics.load.retries.labels(error_class(error)).inc()

    def refused(self, error: SegueError) -> None:
        self.count(outcome_of(error))

    def ended(self, outcome: str, *, prompt_tokens: int, answer_tokens: int) -> None:
        self.count(outcome)
        self._metrics.load.ended[outcome] += 1
        self._metrics.tokens.prompt_length.observe(prompt_tokens)
        self._metrics.tokens.answer_length.observe(answer_tokens)
        if outcome in _FINISHED and self._first_token_at is not None and answer_tokens > 1:
            token_s = (self._last_token_at - self._first_token_at) / (answer_tokens - 1)
            self._metrics.latency.output_token_s.observe(token_s)
            self._metrics.gen_ai.output_token(self.operation, token_s)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the block if it waits, and counts a client that leaves during it."""
        started_at = self._clock()
        try:
            yield
        except asyncio.CancelledError:
            self.count("disconnected")
            raise
        finally:
            waited_s = self._clock() - started_at
            if waited_s > _NO_WAIT_S:
                self.trace.waited(started_at)
                self._metrics.latency.wait_s.observe(waited_s)

    def count(self, outcome: str) -> None:
        """The turn has ended."""
        self._metrics.load.turns.labels(outcome).inc()
        self._metrics.tenants.ended(self._tenant, outcome)
        took_s = self._clock() - self._received_at
        exemplar = self.trace.exemplar
        self._metrics.latency.turn_s.labels(outcome).observe(took_s, exemplar)
        self._metrics.gen_ai.ended(self.operation, outcome, took_s, exemplar)
        if self._first_token_at is None:
            self._metrics.latency.no_first_token_s.labels(outcome).observe(took_s, exemplar)
        self.trace.ended(outcome, self._error)


def log_end(outcome: str, seconds: float, num_tokens: int, failure: SegueError | None) -> None:
    about = {"outcome": outcome, "seconds": round(seconds, 3), "tokens": num_tokens}
    if failure is None:
        logger.info("turn ended", extra=about)
    else:
        error = f"{type(failure).__name__}: {failure}"
        logger.warning("turn failed", extra={**about, "error": error})


def error_class(error: Exception) -> str:
    """The metrics' label for an error. Bounded, whatever libraries may raise."""
    return type(error).__name__ if isinstance(error, SegueError) else "unforeseen"


def turn_number(turn_input: TurnInput) -> int:
    """The turn's number within its chat, from 1; 0 for other inputs."""
    if not isinstance(turn_input, ChatInput):
        return 0
    num_answers = sum(message.role == "assistant" for message in turn_input.messages)
    return num_answers if turn_input.continue_final_message else num_answers + 1


def turn_class(number: int) -> str:
    """The metrics' label for a turn's number: one of seven."""
    for last in (1, 2, 4, 8, 16, 32):
        if number <= last:
            return f"{last // 2 + 1}-{last}" if last > 2 else str(last)
    return "33+"
