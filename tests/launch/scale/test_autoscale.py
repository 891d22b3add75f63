"""Autoscaling: the decision as tables, then over time, and on recorded traces in virtual time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from segue.api.cluster.fleet import WorkerCounts
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.types import Epoch, Role, WorkerId
from segue.launch.scale.autoscale import (
    Signals,
    State,
    decide,
    is_enough_with_fewer,
    need,
    signals_of,
)
from segue.launch.scale.config import AutoscaleConfig

P, D = Role.PREFILL, Role.DECODE
CONFIG = AutoscaleConfig(enabled=True, down_after_s=120.0)
"""queue_s 1, min_tokens_per_s 15, min_free_pages 0.1."""


def counts(prefill: int, decode: int) -> WorkerCounts:
    return WorkerCounts(prefill=prefill, decode=decode)


IDLE = Signals(ready=counts(2, 2))


@pytest.mark.parametrize(
    ("signals", "prefill", "decode"),
    [
        (IDLE, 0.0, 0.1),
        (replace(IDLE, queue_s=0.9), 0.9, 0.1),
        (replace(IDLE, queue_s=3.0), 3.0, 0.1),
        (replace(IDLE, tokens_per_s=30.0), 0.0, 0.5),
        (replace(IDLE, tokens_per_s=7.5), 0.0, 2.0),
        (replace(IDLE, free_pages=0.05), 0.0, 2.0),
        (replace(IDLE, free_pages=0.2), 0.0, 0.5),
        # Turns wait for a place, but not for prefill.
        (replace(IDLE, waiting_turns=4), 0.0, 1.0),
        # They wait for prefill.
        (replace(IDLE, waiting_turns=4, queue_s=2.0), 2.0, 0.1),
    ],
)
def test_what_asks_for_one_more(signals: Signals, prefill: float, decode: float) -> None:
    over = need(signals, CONFIG)

    assert (over[P], over[D]) == (pytest.approx(prefill), pytest.approx(decode))


@pytest.mark.parametrize(
    ("signals", "busy", "roles"),
    [
        (IDLE, 0.0, {P, D}),
        (replace(IDLE, ready=counts(1, 1)), 0.0, set()),
        (replace(IDLE, queue_s=0.3), 0.0, {D}),
        (IDLE, 0.7, {D}),
        (replace(IDLE, ready=counts(3, 2)), 0.7, {P, D}),
        (replace(IDLE, outstanding=3), 0.0, {D}),
        (replace(IDLE, outstanding=2), 0.0, {P, D}),
        (replace(IDLE, tokens_per_s_with_fewer=20.0), 0.0, {P}),
        (replace(IDLE, tokens_per_s_with_fewer=23.0), 0.0, {P, D}),
        # Half in use would be all that one worker has.
        (replace(IDLE, free_pages=0.5), 0.0, {P}),
        (replace(IDLE, free_pages=0.7), 0.0, {P, D}),
        (replace(IDLE, waiting_turns=1), 0.0, set()),
    ],
)
def test_when_one_fewer_is_enough(signals: Signals, busy: float, roles: set[Role]) -> None:
    assert {role for role in Role if is_enough_with_fewer(role, signals, busy, CONFIG)} == roles


class Decisions:
    """A decision each second, on signals that a test sets; workers are ready at once."""

    def __init__(self, config: AutoscaleConfig, wanted: WorkerCounts) -> None:
        self.config = config
        self.wanted = wanted
        self.signals = IDLE
        self.now = 0.0
        self.state = State()
        self.changes: list[tuple[float, WorkerCounts]] = []
        self.are_ready = True

    def go(self, seconds: int, **signals: float) -> WorkerCounts:
        for _ in range(seconds):
            self.now += 1.0
            if self.are_ready:
                self.signals = replace(self.signals, ready=self.wanted)
            self.signals = replace(self.signals, **signals)  # type: ignore[arg-type]  # a test's signals
            self.state, wanted = decide(
                self.state, self.signals, self.wanted, self.config, self.now
            )
            if wanted != self.wanted:
                self.changes.append((self.now, wanted))
            self.wanted = wanted
        return self.wanted


def test_a_need_must_last_and_is_met_one_step_at_a_time() -> None:
    world = Decisions(CONFIG, counts(1, 1))

    assert world.go(4, queue_s=5.0) == counts(1, 1)
    world.go(1, queue_s=0.5)
    assert world.go(5, queue_s=5.0) == counts(1, 1), "it did not last"
    assert world.go(1) == counts(2, 1)
    assert world.go(14) == counts(2, 1), "the cool-down"
    assert world.go(60) == counts(4, 1), "the limit"


def test_the_role_that_is_further_over_its_limit_is_first() -> None:
    world = Decisions(CONFIG, counts(1, 1))
    world.go(6, queue_s=2.0, tokens_per_s=5.0)

    assert world.wanted == counts(1, 2)
    assert world.go(16) == counts(1, 3)


def test_while_workers_start_another_one_needs_a_greater_need() -> None:
    world = Decisions(CONFIG, counts(1, 1))
    world.are_ready = False
    world.signals = replace(IDLE, ready=counts(1, 1))

    assert world.go(100, queue_s=1.5) == counts(2, 1)
    assert world.go(30, queue_s=2.5) == counts(3, 1)


def test_fewer_only_after_long_and_one_role_at_a_time() -> None:
    world = Decisions(CONFIG, counts(3, 3))
    assert world.go(120) == counts(3, 3)
    assert world.go(2) == counts(2, 3)
    assert world.go(118) == counts(2, 3)
    world.go(700)

    assert world.wanted == counts(1, 1)
    assert all(
        b - a >= 120 for (a, _), (b, _) in zip(world.changes, world.changes[1:], strict=False)
    )


def test_one_that_is_missed_soon_after_leaves_later_the_next_time() -> None:
    world = Decisions(CONFIG, counts(2, 1))
    world.go(122)
    assert world.wanted == counts(1, 1)
    world.go(10, queue_s=2.0)
    world.go(10)
    assert world.wanted == counts(2, 1)

    world.go(200, queue_s=0.0)
    assert world.wanted == counts(2, 1), "twice as patient"
    world.go(60)
    assert world.wanted == counts(1, 1)


def test_a_steady_load_between_the_limits_changes_nothing() -> None:
    world = Decisions(CONFIG, counts(2, 2))
    world.go(5_000, queue_s=0.5, tokens_per_s=18.0, tokens_per_s_with_fewer=12.0, prefill_busy=1.3)

    assert world.changes == []


def test_numbers_out_of_the_limits_are_brought_within_them() -> None:
    config = replace(CONFIG, min_decode=2, max_prefill=2)
    world = Decisions(config, counts(4, 1))

    assert world.go(1) == counts(2, 2)


def test_signals_are_the_worst_of_the_routers() -> None:
    def worker(name: str, free: int, health: WorkerHealth = WorkerHealth.READY) -> WorkerStatus:
        pages = UnitCounts(total=100, free=free, working=90 - free, cached=10)
        return WorkerStatus(
            worker_id=WorkerId(name),
            role=Role(name.split("-")[0]),
            epoch=Epoch(1),
            address="a:1",
            health=health,
            load=WorkerLoad(pages=pages),
        )

    def view(**router: float) -> ClusterStatus:
        workers = (
            worker("prefill-0", 0),
            worker("decode-0", 30),
            worker("decode-1", 10),
            worker("decode-2", 90, WorkerHealth.WARMING),
        )
        return ClusterStatus(
            ready=True,
            model="m",
            model_id="0",
            workers=workers,
            router=RouterStatus(address="r", **router),  # type: ignore[arg-type]  # a test's numbers
        )

    seen = signals_of(
        [
            view(prefill_queue_s=0.5, outstanding_handoffs=2, turn_tokens_per_s=30.0),
            view(prefill_queue_s=1.5, outstanding_handoffs=3, waiting_turns=1),
        ]
    )

    assert seen == Signals(
        ready=counts(1, 2),
        queue_s=1.5,
        outstanding=5,
        waiting_turns=1,
        tokens_per_s=30.0,
        tokens_per_s_with_fewer=math.inf,
        free_pages=0.3,
    )


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("min_decode", 0, "min_decode must be >= 1"),
        ("max_prefill", 0, "at most max_prefill"),
        ("queue_s", 0.0, "queue_s must be > 0"),
        ("min_tokens_per_s", float("nan"), "min_tokens_per_s must be > 0"),
        ("cooldown_s", -1.0, "cooldown_s must be >= 0"),
        ("min_free_pages", 1.0, r"must be in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **{setting: value})  # type: ignore[arg-type]  # a test's values
