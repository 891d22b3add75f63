"""A prompt's spans on a prefill worker, made from its times after it has ended or failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from kv_transfer.writing.outgoing import ShipResult
from prefill_worker.engine import Computed
from segue.api.turn import ShipReport, TurnSpec
from segue.process.telemetry import Clock
from segue.process.tracing.tracer import Stage, Tracer, Value


@dataclass(slots=True)
class PromptTimes:
    """When the stages that a prompt reached have ended, in seconds of the worker's clock."""

    received_at: float
    pulled: ShipReport = field(default_factory=ShipReport)
    pulled_at: float = 0.0
    held_tokens: int = 0
    """Tokens of the prompt whose states were here, or were pulled."""
    computed: Computed | None = None
    shipped: ShipResult | None = None
    shipped_at: float = 0.0
    committed_at: float = 0.0


@contextlib.contextmanager
def traced(tracer: Tracer, turn: TurnSpec, clock: Clock) -> Iterator[PromptTimes]:
    """Traces a prompt on this worker. The block fills in its times."""
    times = PromptTimes(clock())
    with tracer.span("prefill", clock) as span:
        try:
            yield times
        finally:
            if span.records:
                span.describe({"segue.turn.id": turn.turn_id, **_of_prompt(turn, times)})
                for stage in stages_of(times, clock()):
                    span.add(stage)


def stages_of(times: PromptTimes, now: float) -> list[Stage]:
    """The stages that have ended. Computing and moving overlap; a pull is part of the queue
    time."""
    stages = []
    computed, shipped = times.computed, times.shipped
    queued_until = now if computed is None else computed.started_at
    stages.append(Stage(name="queue", started_at=times.received_at, ended_at=queued_until))
    if times.pulled.pulled_bytes:
        pulled = times.pulled
        stages.append(
            Stage(
                name="pull",
                started_at=times.pulled_at - pulled.pull_s,
                ended_at=times.pulled_at,
                attributes={
                    "segue.pulled_tokens": pulled.pulled_tokens,
                    "segue.pulled_bytes": pulled.pulled_bytes,
                },
            )
        )
    if computed is not None:
        attributes = {"segue.chunks": computed.num_chunks}
        stages.append(
            Stage(
                name="compute",
                started_at=computed.started_at,
                ended_at=computed.ended_at,
                attributes=attributes,
            )
        )
    if shipped is not None:
        stages.append(_transfer(shipped))
        if times.committed_at:
            stages.append(
                Stage(name="commit", started_at=times.shipped_at, ended_at=times.committed_at)
            )
    return stages


def _transfer(shipped: ShipResult) -> Stage:
    attributes: dict[str, Value] = {
        "segue.shipped_bytes": shipped.shipped_bytes,
        "segue.moving_s": shipped.transfer_s,
        "segue.exposed_s": shipped.exposed_transfer_s,
        "segue.hidden_share": hidden_share(shipped),
    }
    return Stage(
        name="transfer",
        started_at=shipped.started_at,
        ended_at=shipped.arrived_at,
        attributes=attributes,
    )


def hidden_share(shipped: ShipResult) -> float:
    """The share of the transfer that overlapped with computing, from 0 to 1."""
    took_s = shipped.arrived_at - shipped.started_at
    if took_s <= 0:
        return 0.0
    return min(max(1.0 - shipped.exposed_transfer_s / took_s, 0.0), 1.0)


def _of_prompt(turn: TurnSpec, times: PromptTimes) -> dict[str, Value]:
    num_tokens = len(turn.context)
    return {
        "gen_ai.usage.input_tokens": num_tokens,
        "segue.cached_tokens": max(times.held_tokens - times.pulled.pulled_tokens, 0),
        "segue.computed_tokens": num_tokens - times.held_tokens,
    }
