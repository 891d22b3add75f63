"""A turn's spans in the router: one for the turn, with a child for each finished stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from router.placement.estimate import Decision, Placement
from segue.api.errors import SegueError
from segue.api.turn import TurnEnd, TurnSpec
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import (
    NO_SPAN,
    OFF,
    Attributes,
    Happened,
    Span,
    Stage,
    Tracer,
    Value,
)

PROVIDER = "segue"
# A retry without a wait takes less.
_NO_WAIT_S = 0.01
_ANSWERED = frozenset({"stop", "length", "cancelled"})
# Fields that are attributes of the same name.
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_USAGE = (
    *("resident_tokens", "pulled_tokens", "shipped_bytes", "rerendered_tokens"),
    *("drafted_tokens", "accepted_tokens", "resumed"),
)
_TIMINGS = (
    *("first_token_s", "queue_s", "prefill_s", "transfer_s", "exposed_transfer_s", "decode_s"),
)


class TurnTrace:
    """One turn. Each method is called when the stage that it names has ended."""

    def __init__(self, clock: Clock, tracer: Tracer = OFF, model: str = "") -> None:
        self._clock = clock
        self._tracer = tracer
        self._model = model
        self._span: Span = NO_SPAN
        self._num_attempts = 0
        self._placed_at = 0.0
        self._placement: Placement | None = None
        self._failed_at: float | None = None

    @property
    def exemplar(self) -> dict[str, str] | None:
        """The trace that explains a value of a metric."""
        return {"trace_id": self._span.trace_id} if self._span.records else None

    @contextlib.contextmanager
    def running(self, operation: str, turn_id: str, tenant: str) -> Iterator[None]:
        """The whole turn, however it ends."""
        if not self._tracer.is_on:
            yield
            return
        with self._tracer.span(f"{operation} {self._model}".strip(), self._clock) as self._span:
            self._span.describe(
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": PROVIDER,
                    "gen_ai.request.model": self._model,
                    "segue.turn.id": turn_id,
                    **({"segue.tenant": tenant} if tenant else {}),
                }
            )
            yield

    def waited(self, since: float) -> None:
        """The wait for a place."""
        self._add("admission", since, {})

    def built(self, since: float, spec: TurnSpec, session_id: str) -> None:
        """The prompt is rendered and tokenised. `session_id`: as the client knows it."""
        if self._span.records:
            self._span.describe(request_attributes(spec, session_id))
            self._add("tokenise", since, {"gen_ai.usage.input_tokens": spec.num_prompt})

    def placed(self, since: float, decision: Decision) -> None:
        if self._span.records:
            if self._failed_at is not None and since - self._failed_at > _NO_WAIT_S:
                # Its worker was the last one of its role.
                self._add("wait for a worker", self._failed_at, {}, until=since)
            self._num_attempts += 1
            self._placed_at, self._placement = since, decision.placement
            attributes = {"segue.attempt": self._num_attempts, **decision_attributes(decision)}
            self._add("place", since, attributes)

    def tried_again(self, error: SegueError, num_answered: int) -> None:
        """An attempt has failed. Its workers may be dead, so the router shows its time too."""
        if not self._span.records:
            return
        self._failed(type(error).__name__)
        self._failed_at = self._clock()
        name = "resume" if num_answered else "retry"
        about: Attributes = {
            "error.type": type(error).__name__,
            "segue.answered_tokens": num_answered,
        }
        self._span.happened(Happened(name=name, at=self._clock(), attributes=about))

    def first_token(self, at: float) -> None:
        if self._span.records:
            self._span.happened(Happened(name="first token", at=at))

    def finished(self, end: TurnEnd) -> None:
        if self._span.records:
            self._span.describe(end_attributes(end, self._model))

    def ended(self, outcome: str, error: str = "") -> None:
        """`error`: the error's class."""
        if self._span.records:
            self._span.describe({"segue.outcome": outcome})
            if outcome not in _ANSWERED:
                self._failed(error or outcome)
                self._span.failed(error or outcome)

    def _failed(self, error: str) -> None:
        if (placement := self._placement) is not None:
            self._placement = None
            attributes = {"segue.attempt": self._num_attempts, **_workers(placement)}
            self._add("attempt", self._placed_at, attributes, error)

    def _add(
        self,
        name: str,
        since: float,
        attributes: Attributes,
        error: str = "",
        *,
        until: float | None = None,
    ) -> None:
        if self._span.records:
            self._span.add(
                Stage(
                    name=name,
                    started_at=since,
                    ended_at=self._clock() if until is None else until,
                    attributes=attributes,
                    error=error,
                )
            )


def request_attributes(spec: TurnSpec, session_id: str) -> dict[str, Value]:
    """Attributes of the request, without texts, and so without stop strings."""
    sampling, stop = spec.sampling, spec.stop
    attributes: dict[str, Value] = {
        "gen_ai.request.max_tokens": stop.max_tokens,
        **_fields(sampling, _SAMPLING, "gen_ai.request"),
        "gen_ai.output.type": "text" if spec.grammar is None else "json",
    }
    if session_id:
        attributes["gen_ai.conversation.id"] = session_id
    return attributes


def decision_attributes(decision: Decision) -> dict[str, Value]:
    """Why the turn runs where it does: the chosen candidate's expected costs."""
    chosen = decision.chosen
    attributes: dict[str, Value] = {
        **_workers(decision.placement),
        "segue.place.mode": chosen.mode.value,
        "segue.place.candidates": len(decision.candidates),
        "segue.place.expected_s": chosen.total_s,
        "segue.place.computed_tokens": chosen.plan.computed_tokens,
        "segue.place.resumed_tokens": chosen.plan.resumed_tokens,
        "segue.place.moved_tokens": chosen.target.moved_tokens,
    }
    for name, seconds in chosen.parts().items():
        attributes[f"segue.place.{name}_s"] = seconds
    if chosen.source is not None:
        attributes["segue.place.pull_from"] = chosen.source
    return attributes


def _workers(placement: Placement) -> dict[str, Value]:
    return {
        "segue.prefill_worker": placement.prefill.worker_id,
        "segue.decode_worker": placement.decode.worker_id,
    }


def end_attributes(end: TurnEnd, model: str) -> dict[str, Value]:
    usage = end.usage
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        **_fields(usage, _USAGE, "segue"),
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": [end.finish_reason.value],
        "segue.prefill_worker": end.prefill_worker,
        "segue.decode_worker": end.decode_worker,
        **_fields(end.timings, _TIMINGS, "segue"),
    }


def _fields(value: object, names: Sequence[str], prefix: str) -> dict[str, Value]:
    return {f"{prefix}.{name}": getattr(value, name) for name in names}
