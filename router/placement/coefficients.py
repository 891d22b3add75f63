"""Speeds and sizes that placement learns from finished turns.

Each quantity exists for every worker and pooled over the cluster. A worker is assumed to be like
the others until it has been observed often enough: the first transfer opens connections and the
first pass is slow, which must not make sessions move from worker to worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from segue.api.types import WorkerId
from segue.cost_line import Line, prior_line

# Weight of one observation in the quantities that are plain averages.
_SHARE_STEP = 0.05
_MAX_OVERHEAD_S = 1.0
# A shorter answer tells little about the time of a step.
_MIN_STEPS = 8
# Observations of a worker after which its own line replaces the pooled one.
_TRUSTED_AFTER = 8


class Speed(NamedTuple):
    """The speed of one worker, or of the pooled workers."""

    compute: Line
    """Seconds of a prefill, as a function of computed tokens."""
    link: Line
    """Seconds of a transfer that the worker took part in, as a function of bytes."""
    step: Line
    """Seconds of a decode step, as a function of running turns."""
    hidden_share: float
    """The part of the transfer that overlapped with compute, of what could, from 0 to 1."""


class Coefficients(NamedTuple):
    """The coefficients of the whole cluster."""

    pooled: Speed
    size: Line
    """Bytes of a handoff, as a function of tokens: the fixed part is a slot, the rest pages."""
    overhead_s: float
    """The time that calls between processes add to every turn."""


OwnSpeeds = Mapping[WorkerId, Speed]
"""Each worker's speed, from its own observations alone."""


def expected_speed(own: Speed | None, pooled: Speed) -> Speed:
    """A worker's own figures if observed often enough, else the pooled ones."""
    if own is None:
        return pooled
    compute, link, step, hidden_share = own
    speed = (
        compute if compute.num_observed >= _TRUSTED_AFTER else pooled.compute,
        link if link.num_observed >= _TRUSTED_AFTER else pooled.link,
        step if step.num_observed >= _TRUSTED_AFTER else pooled.step,
        hidden_share,
    )
    # In half the time of `Speed(…)`: a decision asks for several.
    return tuple.__new__(Speed, speed)


# Orders of magnitude of a 35B-A3B model on one GPU with a 100 Gbit/s link; the first observation
# of each quantity replaces its scale.
PRIOR = Coefficients(
    pooled=Speed(
        compute=prior_line(0.010, 5e-5),
        link=prior_line(0.001, 1e-10),
        step=prior_line(0.020, 2e-4),
        hidden_share=0.8,
    ),
    size=prior_line(60 * 2**20, 20 * 2**10),
    overhead_s=0.003,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The measurements of one turn. A value of 0 was not measured and is ignored."""

    prefill: WorkerId
    """The worker that computed the prompt; the decode worker after a local prefill."""
    decode: WorkerId
    computed_tokens: int = 0
    shipped_tokens: int = 0
    """Tokens of the prompt that were not resident on decode."""
    shipped_bytes: int = 0
    queue_s: float = 0.0
    """From prefill's receipt until it started to compute, pulls included."""
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    exposed_transfer_s: float = 0.0
    pulled_from: WorkerId | None = None
    pulled_bytes: int = 0
    pull_s: float = 0.0
    placed_to_first_token_s: float = 0.0
    """From the decision to the first token at the router."""
    completion_tokens: int = 0
    decode_s: float = 0.0
    running_turns: int = 0
    """Turns on the decode worker while it answered, including this one."""


def learn(
    coefficients: Coefficients, speeds: OwnSpeeds, seen: Observation
) -> tuple[Coefficients, OwnSpeeds]:
    """The coefficients after one more turn, and the speeds of the workers that took part in it."""
    pooled = coefficients.pooled
    own = {
        worker_id: speeds.get(worker_id) or _unobserved(pooled)
        for worker_id in (seen.prefill, seen.decode, seen.pulled_from)
        if worker_id is not None
    }

    def update(worker_ids: Iterable[WorkerId], field: str, units: float, value: float) -> None:
        nonlocal pooled
        for worker_id in worker_ids:
            own[worker_id] = _with_line(own[worker_id], field, units, value)
        pooled = _with_line(pooled, field, units, value)

    if seen.prefill_s > 0.0:
        update([seen.prefill], "compute", seen.computed_tokens, seen.prefill_s)
    if seen.transfer_s > 0.0:
        update([seen.prefill, seen.decode], "link", seen.shipped_bytes, seen.transfer_s)
        could_hide_s = _could_hide_s(coefficients.size, seen)
        worker = own[seen.prefill]
        own[seen.prefill] = worker._replace(hidden_share=_hidden_share(worker, could_hide_s, seen))
        pooled = pooled._replace(hidden_share=_hidden_share(pooled, could_hide_s, seen))
    if seen.pulled_from is not None:
        update([seen.pulled_from, seen.prefill], "link", seen.pulled_bytes, seen.pull_s)
    if seen.completion_tokens > _MIN_STEPS:
        step_s = seen.decode_s / (seen.completion_tokens - 1)
        update([seen.decode], "step", seen.running_turns, step_s)
    learned = Coefficients(
        pooled=pooled,
        size=coefficients.size.observed(seen.shipped_tokens, seen.shipped_bytes),
        overhead_s=_overhead_s(coefficients.overhead_s, seen),
    )
    return learned, own


def _unobserved(pooled: Speed) -> Speed:
    def line(of: Line) -> Line:
        return prior_line(of.prior_fixed, of.prior_per_unit)

    return Speed(line(pooled.compute), line(pooled.link), line(pooled.step), pooled.hidden_share)


def _with_line(speed: Speed, field: str, units: float, value: float) -> Speed:
    match field:
        case "compute":
            return speed._replace(compute=speed.compute.observed(units, value))
        case "link":
            return speed._replace(link=speed.link.observed(units, value))
        case _:
            return speed._replace(step=speed.step.observed(units, value))


def _could_hide_s(size: Line, seen: Observation) -> float:
    """Longest time by which compute could hide the transfer. A state cannot be hidden."""
    if not (seen.shipped_bytes and seen.computed_tokens):
        return 0.0
    pages_share = max(1.0 - size.fixed / seen.shipped_bytes, 0.0)
    computed_share = min(seen.shipped_tokens / seen.computed_tokens, 1.0)
    return min(seen.transfer_s * pages_share, seen.prefill_s * computed_share)


def _hidden_share(speed: Speed, could_hide_s: float, seen: Observation) -> float:
    if could_hide_s <= 0.0:
        return speed.hidden_share
    share = (seen.transfer_s - seen.exposed_transfer_s) / could_hide_s
    return speed.hidden_share + _SHARE_STEP * (min(max(share, 0.0), 1.0) - speed.hidden_share)


def _overhead_s(overhead_s: float, seen: Observation) -> float:
    if seen.placed_to_first_token_s <= 0.0:
        return overhead_s
    explained_s = seen.queue_s + seen.prefill_s + seen.exposed_transfer_s
    rest_s = min(max(seen.placed_to_first_token_s - explained_s, 0.0), _MAX_OVERHEAD_S)
    return overhead_s + _SHARE_STEP * (rest_s - overhead_s)
