"""How many workers the load needs: pure functions of what the routers report and of time.

    need of one more ─ for up_after_s ──────▶ one more    the role that is further over its limit
    one fewer is enough ─ for down_after_s ─▶ one fewer
    after a change: nothing for cooldown_s. While workers of a role still start, another one only if
    the role is over its limit by as many times; one fewer only when all wanted workers are ready

The limits for more and for fewer lie apart: one fewer is enough only if that is well within what
would ask for one more. So a steady load has a steady number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segue.api.cluster.fleet import WorkerCounts
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.types import Role
from segue.launch.scale.config import AutoscaleConfig

_BUSY_ENOUGH = 0.6
"""The share of their time that prefill workers may compute after one has left."""
_QUIET_QUEUE = 0.25
"""The share of `queue_s` below which the queue does not count."""
_SPARE_SPEED = 1.5
"""How far above the floor turns must be after a decode worker has left."""
_SPARE_PAGES = 3.0
"""How many times `min_free_pages` must be free after a decode worker has left."""
_BUSY_OVER_S = 30.0
"""The time over which busy prefill workers are averaged: between two prompts each is idle."""
_MAX_PATIENCE = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the decision rests on, at one moment."""

    ready: WorkerCounts
    queue_s: float = 0.0
    """Expected wait of the next prompt."""
    prefill_busy: float = 0.0
    """Prefill workers that compute."""
    outstanding: int = 0
    """Turns on workers without a first token."""
    waiting_turns: int = 0
    """In the routers, for a place on a decode worker."""
    tokens_per_s: float = math.inf
    """Of each turn, on the slowest decode worker."""
    tokens_per_s_with_fewer: float = math.inf
    free_pages: float = 1.0
    """The share of the decode workers' pages that is free or may be evicted."""


def signals_of(views: Sequence[ClusterStatus]) -> Signals:
    """Of the routers that answer, at least one. Each knows its own turns, and from heartbeats the
    load of all."""
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
class Since:
    """Since when a role needs one more worker, or one fewer is enough; None: it is not so."""

    more: float | None = None
    fewer: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is remembered from one decision to the next."""

    prefill: Since = Since()
    decode: Since = Since()
    looked_at: float | None = None
    busy: float = 0.0
    """`prefill_busy`, averaged."""
    changed_at: float = -math.inf
    shrunk_at: float = -math.inf
    patience: float = 1.0
    """How many times `down_after_s` to wait before one leaves."""


def need(signals: Signals, config: AutoscaleConfig) -> dict[Role, float]:
    """How far each role is over its limit: 1 and more needs one more worker."""
    slow = config.min_tokens_per_s / max(signals.tokens_per_s, 1e-9)
    full = config.min_free_pages / max(signals.free_pages, 1e-9)
    # Turns that wait although no prompt does: there is no place on a decode worker.
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
    """The numbers wanted from now on: at most one role differs, by one. Numbers that are out of the
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
        if _has_lasted(_since(state, role).more, config.up_after_s, now)
        and over[role] >= 1 + max(wanted.of(role) - signals.ready.of(role), 0)
        and wanted.of(role) < _limit(config, "max", role)
    ]
    if growing:
        role = max(growing, key=over.__getitem__)
        return _grown(state, config, now), _changed(wanted, role, 1)
    # The other role keeps its workers while one is needed: they may be what is missing next.
    if signals.ready != wanted or any(_since(state, role).more is not None for role in Role):
        return state, wanted
    for role in Role:
        down_after_s = config.down_after_s * state.patience
        if _has_lasted(_since(state, role).fewer, down_after_s, now) and wanted.of(role) > _limit(
            config, "min", role
        ):
            state = replace(_after_change(state, now), shrunk_at=now)
            return state, _changed(wanted, role, -1)
    return state, wanted


def _observed(state: State, signals: Signals, config: AutoscaleConfig, now: float) -> State:
    passed_s = 0.0 if state.looked_at is None else now - state.looked_at
    share = 1.0 if state.looked_at is None else 1.0 - math.exp(-passed_s / _BUSY_OVER_S)
    busy = state.busy + share * (signals.prefill_busy - state.busy)
    over = need(signals, config)

    def since(role: Role) -> Since:
        before = _since(state, role)
        needs_more = over[role] >= 1.0
        is_enough = is_enough_with_fewer(role, signals, busy, config)
        return Since(
            more=_kept(before.more, needs_more, now), fewer=_kept(before.fewer, is_enough, now)
        )

    return replace(
        state,
        prefill=since(Role.PREFILL),
        decode=since(Role.DECODE),
        looked_at=now,
        busy=busy,
    )


def _grown(state: State, config: AutoscaleConfig, now: float) -> State:
    """A worker that is missed soon after one has left: the next one leaves later."""
    is_soon = now - state.shrunk_at < config.down_after_s * state.patience * 2
    patience = min(state.patience * 2, _MAX_PATIENCE) if is_soon else 1.0
    return replace(_after_change(state, now), patience=patience)


def _after_change(state: State, now: float) -> State:
    """Its effect is seen anew for both roles."""
    return replace(state, prefill=Since(), decode=Since(), changed_at=now)


def _since(state: State, role: Role) -> Since:
    return state.prefill if role is Role.PREFILL else state.decode


def _kept(since: float | None, is_so: bool, now: float) -> float | None:
    if not is_so:
        return None
    return now if since is None else since


def _has_lasted(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds


def _limit(config: AutoscaleConfig, end: str, role: Role) -> int:
    limit: int = getattr(config, f"{end}_{role.value}")
    return limit


def _changed(counts: WorkerCounts, role: Role, by: int) -> WorkerCounts:
    return replace(counts, **{role.value: counts.of(role) + by})
