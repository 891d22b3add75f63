"""What each tenant uses now, and whether it may have another turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from router.metrics import TenantMetrics
from router.tenants.budget import TokenBudget
from router.tenants.tenant import Limits, Tenant
from segue.api.errors import Overloaded
from segue.process.telemetry import Clock


@dataclass(slots=True)
class _Account:
    num_turns: int = 0
    whole_rate: int = 0
    """The tenant's tokens a minute on all routers."""
    budget: TokenBudget | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    limit: str
    """Which one, for metrics: "turns" or "tokens"."""
    message: str
    retry_after_s: float = 1.0


def refusal(
    limits: Limits, num_turns: int, empty_for_s: float, num_routers: int = 1
) -> Refusal | None:
    """Why a tenant may not have another turn now; None if it may. `limits`: this router's part of
    them. `empty_for_s`: until its token budget is above zero.
    """
    part = f" on this one of {num_routers} routers" if num_routers > 1 else ""
    if limits.max_turns and num_turns >= limits.max_turns:
        in_flight = "1 turn is" if num_turns == 1 else f"{num_turns} turns are"
        return Refusal(
            "turns",
            f"{in_flight} of this tenant in flight, and its max_turns is "
            f"{limits.max_turns}{part}: wait for one to end",
        )
    if empty_for_s > 0:
        return Refusal(
            "tokens",
            f"this tenant has used its {limits.tokens_per_minute} tokens a minute{part} "
            "(tokens_per_minute): try again after the hinted time",
            empty_for_s,
        )
    return None


def part_of(limits: Limits, num_routers: int) -> Limits:
    """What one of several routers admits: an equal part of each limit, rounded up."""
    return Limits(
        max_turns=-(-limits.max_turns // num_routers),
        tokens_per_minute=-(-limits.tokens_per_minute // num_routers),
    )


class Routers(Protocol):
    @property
    def num_routers(self) -> int: ...


class TenantAccounts:
    """One event loop owns it. As many accounts as tenants that ever had a turn."""

    def __init__(self, metrics: TenantMetrics, clock: Clock, routers: Routers) -> None:
        self._metrics = metrics
        self._clock = clock
        self._routers = routers
        self._accounts: dict[str, _Account] = {}

    @contextlib.contextmanager
    def turn(self, tenant: Tenant) -> Iterator[None]:
        """Holds one of the tenant's turns. Raises Overloaded."""
        limits = self._limits_of(tenant)
        account = self._of(tenant, limits)
        empty_for_s = account.budget.empty_for_s() if account.budget else 0.0
        refused = refusal(limits, account.num_turns, empty_for_s, self._routers.num_routers)
        if refused is not None:
            self._metrics.refused(tenant.name, refused.limit)
            raise Overloaded.after(refused.message, retry_after_s=refused.retry_after_s)
        account.num_turns += 1
        try:
            yield
        finally:
            account.num_turns -= 1

    def charge(self, tenant: Tenant, *, computed: int, generated: int) -> None:
        """A turn has ended: its prompt tokens that were computed, and those of its answer."""
        self._metrics.used(tenant.name, computed=computed, generated=generated)
        if (budget := self._of(tenant, self._limits_of(tenant)).budget) is not None:
            budget.charge(computed + generated)

    def _limits_of(self, tenant: Tenant) -> Limits:
        return part_of(tenant.limits, self._routers.num_routers)

    def _of(self, tenant: Tenant, limits: Limits) -> _Account:
        account = self._accounts.setdefault(tenant.name, _Account())
        rate, whole = limits.tokens_per_minute, tenant.limits.tokens_per_minute
        if account.whole_rate != whole:
            # The first turn, or the file of keys has changed.
            account.whole_rate = whole
            account.budget = TokenBudget(rate, self._clock) if rate else None
        elif account.budget is not None and account.budget.tokens_per_minute != rate:
            # A router has joined or left.
            account.budget.set_rate(rate)
        return account
