"""The number of workers that the load needs: pure functions of the routers' reports and of time.

    need of one more ─ for up_after_s ──────▶ one more    the role that is further over its limit
    one fewer is enough ─ for down_after_s ─▶ one fewer
    after a change: nothing for cooldown_s. While n workers of a role still start, one more only if
    the role is over n + 1 times its limit; one fewer only when all wanted workers are ready

One fewer is enough only if the remaining workers stay well below the limits for one more, so a
steady load has a steady number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from segue.api.cluster.fleet import WorkerCounts
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.types import Role
from segue.launch.scale.config import AutoscaleConfig

_BUSY_ENOUGH = 0.6
"""The largest share of busy prefill workers after one has left."""
_QUIET_QUEUE = 0.25
"""The share of `queue_s` below which the queue does not count."""
_SPARE_SPEED = 1.5
"""The multiple of the speed floor that turns must have after a decode worker has left."""
_SPARE_PAGES = 3.0
"""The multiple of `min_free_pages` that must be free after a decode worker has left."""
_BUSY_OVER_S = 30.0
"""Averaging time for busy prefill workers, since each is idle between two prompts."""
_MAX_PATIENCE = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The measurements for one decision."""

    ready: WorkerCounts
    queue_s: float = 0.0
    """Expected wait of the next prompt."""
    prefill_busy: float = 0.0
    """Number of prefill workers that compute."""
    outstanding: int = 0
    """Turns on workers that have no first token yet."""
    waiting_turns: int = 0
    """Turns in the routers that wait for a place on a decode worker."""
    tokens_per_s: float = math.inf
    """Of each turn, on the slowest decode worker."""
    tokens_per_s_with_fewer: float = math.inf
    free_pages: float = 1.0
    """The share of the decode workers' pages that is free or may be evicted."""


def signals_of(views: Sequence[ClusterStatus]) -> Signals:
    """From the views of at least one router. Each router knows its own turns, and the load of all
    workers from heartbeats."""
    routers = [view.router for view in views]
    ready = [w for w in views[0].workers if w.health is WorkerHealth.READY]
    pages = [w.load.pages for w in ready if w.role is Role.DECODE]
    total = sum(one.total for one in pages)
    rates = [r.turn_tokens_per_s for r in routers if r.turn_tokens_per_s]
    fewer = [r.turn_tokens_per_s_with_fewer for r in routers if r.turn_tokens_per_s_with_fewer]
    return Signals(
        ready=WorkerCounts(
            prefill=sum(w.role is Role.PREFILL for w in ready),
            decode=sum(w.role is Role.DECODE for w in ready),
        ),
        queue_s=max(r.prefill_queue_s for r in routers),
        prefill_busy=max(r.prefill_busy for r in routers),
        outstanding=sum(r.outstanding_handoffs for r in routers),
        waiting_turns=sum(r.waiting_turns for r in routers),
        tokens_per_s=min(rates, default=math.inf),
        tokens_per_s_with_fewer=min(fewer, default=math.inf),
        free_pages=sum(one.free + one.cached for one in pages) / total if total else 1.0,
    )


def in_words(signals: Signals) -> str:
    """For the log of a change."""
    return (
        f"queue {signals.queue_s:.2f} s, {signals.prefill_busy:.0f} of {signals.ready.prefill} "
        f"prefill workers compute, {signals.outstanding} handoffs outstanding, "
        f"{signals.waiting_turns} turns wait, each turn {signals.tokens_per_s:.0f} tokens/s or "
        f"more, {signals.free_pages:.0%} of pages free"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state from one decision to the next."""

    more_since: Mapping[Role, float] = field(default_factory=dict)
    """The roles that need one more worker, and since when."""
    fewer_since: Mapping[Role, float] = field(default_factory=dict)
    """The roles for which one worker fewer is enough, and since when."""
    looked_at: float | None = None
    busy: float = 0.0
    """`prefill_busy`, averaged."""
    changed_at: float = -math.inf
    shrunk_at: float = -math.inf
    patience: float = 1.0
    """The multiple of `down_after_s` to wait before a worker leaves."""


def need(signals: Signals, config: AutoscaleConfig) -> dict[Role, float]:
    """The load of each role in relation to its limit: from 1 on, it needs one more worker."""
    slow = config.min_tokens_per_s / max(signals.tokens_per_s, 1e-9)
    full = config.min_free_pages / max(signals.free_pages, 1e-9)
    # Turns wait although no prompt does, so the decode workers have no place.
    has_queue = signals.queue_s > config.queue_s * _QUIET_QUEUE
    no_place = 1.0 if signals.waiting_turns and not has_queue else 0.0
    return {
        Role.PREFILL: signals.queue_s / config.queue_s,
        Role.DECODE: max(slow, full, no_place),
    }


def is_enough_with_fewer(
    role: Role, signals: Signals, busy: float, config: AutoscaleConfig
) -> bool:
    """Whether one worker fewer of the role would be well within its limits."""
    left = signals.ready.of(role) - 1
    if left < 1 or signals.waiting_turns:
        return False
    if role is Role.PREFILL:
        is_short = signals.queue_s <= config.queue_s * _QUIET_QUEUE
        # With handoffs outstanding on every worker none is idle, whatever the queue says.
        return (
            is_short
            and busy <= left * _BUSY_ENOUGH
            and signals.outstanding <= signals.ready.prefill
        )
    used = (1.0 - signals.free_pages) * (left + 1) / left
    return (
        signals.tokens_per_s_with_fewer >= config.min_tokens_per_s * _SPARE_SPEED
        and 1.0 - used >= min(config.min_free_pages * _SPARE_PAGES, 0.9)
    )


def decide(
    state: State, signals: Signals, wanted: WorkerCounts, config: AutoscaleConfig, now: float
) -> tuple[State, WorkerCounts]:
    """The wanted numbers from now on: at most one role differs, by one. Numbers outside of the
    limits are brought within them at once."""
    state = _observed(state, signals, config, now)
    limited = config.within(wanted)
    if limited != wanted:
        return state, limited
    if now - state.changed_at < config.cooldown_s:
        return state, wanted
    over = need(signals, config)
    growing = [
        role
        for role in Role
        if _has_lasted(state.more_since, role, config.up_after_s, now)
        and over[role] >= 1 + max(wanted.of(role) - signals.ready.of(role), 0)
        and wanted.of(role) < _limit(config, "max", role)
    ]
    if growing:
        role = max(growing, key=over.__getitem__)
        return _grown(state, config, now), _changed(wanted, role, 1)
    # While one role needs a worker, the other keeps its own: it may be the next one that is short.
    if signals.ready != wanted or state.more_since:
        return state, wanted
    for role in Role:
        down_after_s = config.down_after_s * state.patience
        is_long = _has_lasted(state.fewer_since, role, down_after_s, now)
        if is_long and wanted.of(role) > _limit(config, "min", role):
            state = replace(_after_change(state, now), shrunk_at=now)
            return state, _changed(wanted, role, -1)
    return state, wanted


def _observed(state: State, signals: Signals, config: AutoscaleConfig, now: float) -> State:
    passed_s = 0.0 if state.looked_at is None else now - state.looked_at
    share = 1.0 if state.looked_at is None else 1.0 - math.exp(-passed_s / _BUSY_OVER_S)
    busy = state.busy + share * (signals.prefill_busy - state.busy)
    over = need(signals, config)
    more = [role for role in Role if over[role] >= 1.0]
    fewer = [role for role in Role if is_enough_with_fewer(role, signals, busy, config)]
    return replace(
        state,
        more_since={role: state.more_since.get(role, now) for role in more},
        fewer_since={role: state.fewer_since.get(role, now) for role in fewer},
        looked_at=now,
        busy=busy,
    )


def _grown(state: State, config: AutoscaleConfig, now: float) -> State:
    """If a worker is needed soon after one has left, the next one leaves later."""
    is_soon = now - state.shrunk_at < config.down_after_s * state.patience * 2
    patience = min(state.patience * 2, _MAX_PATIENCE) if is_soon else 1.0
    return replace(_after_change(state, now), patience=patience)


def _after_change(state: State, now: float) -> State:
    """Both roles are observed anew, to see the effect of the change."""
    return replace(state, more_since={}, fewer_since={}, changed_at=now)


def _has_lasted(since: Mapping[Role, float], role: Role, seconds: float, now: float) -> bool:
    return role in since and now - since[role] >= seconds


def _limit(config: AutoscaleConfig, end: str, role: Role) -> int:
    limit: int = getattr(config, f"{end}_{role.value}")
    return limit


def _changed(counts: WorkerCounts, role: Role, by: int) -> WorkerCounts:
    return replace(counts, **{role.value: counts.of(role) + by})
