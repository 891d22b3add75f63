"""The wanted number of workers: operators' orders and the launcher's progress.

Orders are declarative: a later order replaces the numbers, even while workers start or leave.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

from segue.api.checks import require, require_count, require_whole
from segue.api.errors import SegueError
from segue.api.types import Role

MAX_WORKERS = 4096
"""Of one role: more than a router can place turns on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """Workers of each role."""

    prefill: int
    decode: int

    def of(self, role: Role) -> int:
        return self.prefill if role is Role.PREFILL else self.decode

    def __str__(self) -> str:
        return f"{self.prefill} prefill and {self.decode} decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOrder:
    """None leaves a number as it is. Raises InvalidRequest."""

    prefill: int | None = None
    decode: int | None = None

    def __post_init__(self) -> None:
        require(
            self.prefill is not None or self.decode is not None,
            "expected a number of prefill workers, of decode workers, or both, got neither",
        )
        for name in ("prefill", "decode"):
            if (number := getattr(self, name)) is not None:
                require_whole(f"the number of {name} workers", number)
                require_count(f"the number of {name} workers", number, low=1, high=MAX_WORKERS)

    def counts(self, now: WorkerCounts) -> WorkerCounts:
        return WorkerCounts(
            prefill=now.prefill if self.prefill is None else self.prefill,
            decode=now.decode if self.decode is None else self.decode,
        )


@dataclass(frozen=True, slots=True)
class ReloadOrder:
    """Read the configuration file again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """Settings that changed, as "[section] name = value"."""

    applied: tuple[str, ...] = ()
    for_new_workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """The launcher's (`segue serve`) work on the number of workers."""

    has_launcher: bool = False
    """False if the launcher has not called the router lately; the rest is then unknown."""
    prefill: int = 0
    """The wanted number of workers."""
    decode: int = 0
    changes: tuple[str, ...] = ()
    """Its current changes, in words. Empty when all workers are ready."""
    autoscales: bool = False
    """The launcher changes the numbers by load."""

    @property
    def counts(self) -> WorkerCounts:
        return WorkerCounts(prefill=self.prefill, decode=self.decode)


UNKNOWN_FLEET = FleetStatus()
"""Without a launcher."""
Order = ScaleOrder | ReloadOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """An order on its way to the launcher."""

    order: Order
    name: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderResult:
    """The launcher's answer to an order: the error that refuses it, or the settings that a reload
    changed."""

    name: str
    error: SegueError | None = None
    reloaded: Reloaded = Reloaded()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterRules:
    """Settings of `[router]` that a running router can change."""

    min_tokens_per_s: float
    local_prefill_max_tokens: int
    slow_start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherReport:
    """Sent by the launcher to each router about once a second."""

    fleet: FleetStatus
    rules: RouterRules | None = None
    """None: the rules with which the router was started."""
    answers: tuple[OrderResult, ...] = ()
