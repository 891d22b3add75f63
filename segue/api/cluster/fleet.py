"""How many workers there are to be: what an operator asks for, and what the launcher does about it.

The numbers are declared, not steps: a later request replaces them, whatever is still under way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

from segue.api.checks import require, require_count, require_whole
from segue.api.errors import SegueError
from segue.api.types import Role

MAX_WORKERS = 4096
"""Of one role: more than one router can place turns on."""


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
    """None: as many as there are to be already. Raises InvalidRequest."""

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
    """What the launcher, `segue serve`, does about the number of workers."""

    has_launcher: bool = False
    """False: the launcher has not spoken to the router for some seconds, and the rest is unknown.
    """
    prefill: int = 0
    """Workers that there are to be."""
    decode: int = 0
    changes: tuple[str, ...] = ()
    """What it is doing about a difference, in words. Empty when all workers are there."""
    autoscales: bool = False
    """The launcher changes the numbers by itself, by load."""

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
class Answer:
    """What the launcher says to an order: the error that refuses it, or what a reload changed."""

    name: str
    error: SegueError | None = None
    reloaded: Reloaded = Reloaded()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterRules:
    """Settings of `[router]` that a running router applies. See there."""

    min_tokens_per_s: float
    local_prefill_max_tokens: int
    slow_start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherReport:
    """What the launcher sends a router about once a second."""

    fleet: FleetStatus
    rules: RouterRules | None = None
    """None: as the router was started."""
    answers: tuple[Answer, ...] = ()
