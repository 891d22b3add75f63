"""The router's metrics of a turn: every turn counts exactly one end."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from router.metrics import RouterMetrics
from router.telemetry.traces import TurnTrace
from router.turn.meter import TurnMeter
from segue.api.errors import ContextOverflow, Overloaded, SegueError, Unavailable
from segue.api.turn import FinishReason, Timings, TokenDelta, TurnEnd, Usage
from segue.api.types import ChatInput
from tests.router.placed import ManualClock


class Measured:
    """A meter with a manual clock, and its counts."""

    def __init__(self) -> None:
        self.time = ManualClock()
        self.metrics = RouterMetrics()
        chat, trace = ChatInput(messages=()), TurnTrace(self.time)
        self.meter = TurnMeter(self.metrics, self.time, self.time.now, "", chat, trace)

    def tokens(self, at: float, number: int = 1) -> None:
        self.time.now = 100.0 + at
        self.meter.arrived(TokenDelta(token_ids=(7,) * number, text=""), self.time.now)

    def end(self, outcome: str, at: float, *, answer_tokens: int) -> None:
        self.time.now = 100.0 + at
        self.meter.ended(outcome, prompt_tokens=9, answer_tokens=answer_tokens)

    def value(self, name: str, **labels: str) -> float | None:
        registry: CollectorRegistry = self.metrics.registry
        return registry.get_sample_value(name, labels)


@pytest.fixture
def measured() -> Measured:
    return Measured()


def test_a_finished_turn_is_in_every_histogram(measured: Measured) -> None:
    measured.tokens(at=0.25)
    measured.tokens(at=0.5)
    measured.tokens(at=1.25, number=3)
    measured.end("stop", at=1.5, answer_tokens=5)

    assert measured.value("segue_turns_total", outcome="stop") == 1
    assert measured.value("segue_time_to_first_token_seconds_sum") == 0.25
    assert measured.value("segue_no_first_token_seconds_count", outcome="stop") is None
    assert measured.value("segue_turn_seconds_sum", outcome="stop") == 1.5
    assert measured.value("segue_time_per_output_token_seconds_sum") == 0.25
    assert measured.value("segue_inter_token_latency_seconds_sum") == 0.25 + 0.25
    assert measured.value("segue_inter_token_latency_seconds_count") == 2
    assert measured.value("segue_prompt_length_tokens_sum") == 9
    assert measured.value("segue_answer_length_tokens_sum") == 5
    assert measured.value("segue_completion_tokens_total") == 5


def test_a_turn_that_fails_after_its_first_token_counts_it(measured: Measured) -> None:
    measured.tokens(at=0.5)
    measured.meter.failed(Unavailable("decode-0 died"))
    measured.end("failed", at=2.0, answer_tokens=1)

    assert measured.value("segue_turn_errors_total", error="Unavailable") == 1
    assert measured.value("segue_time_to_first_token_seconds_sum") == 0.5
    assert measured.value("segue_no_first_token_seconds_count", outcome="failed") is None
    assert measured.value("segue_turn_seconds_sum", outcome="failed") == 2.0
    # The time per token is observed only for whole answers.
    assert measured.value("segue_time_per_output_token_seconds_count") == 0


def test_a_turn_that_ends_before_its_first_token_records_its_wait(
    measured: Measured,
) -> None:
    measured.end("cancelled", at=3.0, answer_tokens=0)

    assert measured.value("segue_time_to_first_token_seconds_count") == 0
    assert measured.value("segue_no_first_token_seconds_sum", outcome="cancelled") == 3.0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ContextOverflow("too long"), "invalid"), (Overloaded("full"), "overloaded")],
)
def test_a_refused_turn_is_counted_by_outcome_and_error_class(
    measured: Measured, error: SegueError, outcome: str
) -> None:
    measured.time.now += 0.5
    measured.meter.refused(error)
    measured.meter.failed(error)

    assert measured.value("segue_turns_total", outcome=outcome) == 1
    assert measured.value("segue_turn_errors_total", error=type(error).__name__) == 1
    assert measured.value("segue_no_first_token_seconds_sum", outcome=outcome) == 0.5
    assert measured.value("segue_prompt_length_tokens_count") == 0


def test_retried_attempts_are_no_errors_of_the_turn(measured: Measured) -> None:
    measured.meter.tried_again(Unavailable("prefill-0 died"), 0)
    measured.tokens(at=1.0)
    measured.end("stop", at=1.0, answer_tokens=1)

    assert measured.value("segue_turn_retries_total", error="Unavailable") == 1
    assert measured.value("segue_turn_errors_total", error="Unavailable") is None


def test_unexpected_errors_share_one_name(measured: Measured) -> None:
    measured.meter.failed(KeyError("x"))
    measured.meter.failed(ZeroDivisionError())

    assert measured.value("segue_turn_errors_total", error="unforeseen") == 2


def test_the_end_states_where_tokens_came_from(measured: Measured) -> None:
    measured.meter.finished(
        TurnEnd(
            finish_reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=64, cached_tokens=48, rerendered_tokens=3),
            timings=Timings(queue_s=0.5, router_s=0.25, first_token_s=1.0),
        )
    )

    assert measured.value("segue_prompt_tokens_total") == 64
    assert measured.value("segue_cached_tokens_total") == 48
    assert measured.value("segue_rerendered_turns_total") == 1
    assert measured.value("segue_queue_seconds_sum") == 0.5
    assert measured.value("segue_router_dispatch_seconds_sum") == 0.25


def test_the_first_failure_is_a_step_that_a_rate_sees(measured: Measured) -> None:
    assert measured.value("segue_turns_total", outcome="failed") == 0
    assert measured.value("segue_turn_retries_total", error="Unavailable") == 0
