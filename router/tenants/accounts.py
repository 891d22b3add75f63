"""Each tenant's current usage, and whether its limits allow another turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from router.metrics import TenantMetrics
from router.tenants.tenant import Limits, Tenant
from segue.api.checks import counted
from segue.api.errors import Overloaded
from segue.process.telemetry import Clock

_ROUNDING = 1e-6


@dataclass(slots=True)
class _Account:
    num_turns: int = 0
    whole_rate: int = 0
    """The tenant's tokens a minute on all routers."""
    budget: TokenBudget | None = None


@dataclass(frozen=True, slots=True)
class LimitReached:
    limit: str
    """The metrics' label: "turns" or "tokens"."""
    message: str
    retry_after_s: float = 1.0


def refusal(
    limits: Limits, num_turns: int, empty_for_s: float, num_routers: int = 1
) -> LimitReached | None:
    """Why a tenant may not have another turn now; None if it may. `limits`: this router's part of
    them. `empty_for_s`: seconds until its token budget is above zero.
    """
    part = f" on this one of {num_routers} routers" if num_routers > 1 else ""
    if limits.max_turns and num_turns >= limits.max_turns:
        verb = "is" if num_turns == 1 else "are"
        return LimitReached(
            "turns",
            f"{counted(num_turns, 'turn')} of this tenant {verb} in flight, and its max_turns is "
            f"{limits.max_turns}{part}: wait for one to end",
        )
    if empty_for_s > 0:
        return LimitReached(
            "tokens",
            f"this tenant has used its {limits.tokens_per_minute} tokens a minute{part} "
            "(tokens_per_minute): try again after the hinted time",
            empty_for_s,
        )
    return None


def part_of(limits: Limits, num_routers: int) -> Limits:
    """One router's share of the limits: an equal part of each, rounded up."""
    return Limits(
        max_turns=-(-limits.max_turns // num_routers),
        tokens_per_minute=-(-limits.tokens_per_minute // num_routers),
    )


class TenantAccounts:
    """One event loop owns it. Has an account for each tenant that ever had a turn."""

    def __init__(
        self, metrics: TenantMetrics, clock: Clock, num_routers: Callable[[], int]
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._num_routers = num_routers
        self._accounts: dict[str, _Account] = {}

    @contextlib.contextmanager
    def turn(self, tenant: Tenant) -> Iterator[None]:
        """Counts the block as one of the tenant's turns. Raises Overloaded."""
        num_routers = self._num_routers()
        account = self._of(tenant)
        empty_for_s = account.budget.empty_for_s() if account.budget else 0.0
        limits = part_of(tenant.limits, num_routers)
        refused = refusal(limits, account.num_turns, empty_for_s, num_routers)
        if refused is not None:
            self._metrics.refused(tenant.name, refused.limit)
            raise Overloaded.after(refused.message, retry_after_s=refused.retry_after_s)
        account.num_turns += 1
        try:
            yield
        finally:
            account.num_turns -= 1

    def charge(self, tenant: Tenant, *, computed: int, generated: int) -> None:
        """Charges a turn that has ended for the computed tokens of its prompt, and its answer's."""
        self._metrics.used(tenant.name, computed=computed, generated=generated)
        if (budget := self._of(tenant).budget) is not None:
            budget.charge(computed + generated)

    def _of(self, tenant: Tenant) -> _Account:
        account = self._accounts.setdefault(tenant.name, _Account())
        whole = tenant.limits.tokens_per_minute
        rate = part_of(tenant.limits, self._num_routers()).tokens_per_minute
        if account.whole_rate != whole:
            # The first turn, or the file of keys has changed.
            account.whole_rate = whole
            account.budget = TokenBudget(rate, self._clock) if rate else None
        elif account.budget is not None and account.budget.tokens_per_minute != rate:
            # A router has joined or left.
            account.budget.set_rate(rate)
        return account


class TokenBudget:
    """A tenant's tokens a minute. Grows steadily, up to a minute's tokens, and is charged when the
    cost of a turn is known.

    That is after the turn, so a budget may be overdrawn; no turn is admitted until it has grown to
    a token again. In the long run a tenant gets its rate, however large its turns are. Libraries
    for rate limits decide before a cost is incurred, and allow no debt.
    """

    def __init__(self, tokens_per_minute: int, clock: Clock) -> None:
        self.tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._level = float(tokens_per_minute)
        self._level_at = clock()

    def set_rate(self, tokens_per_minute: int) -> None:
        """Scales the remaining tokens with the rate; a debt stays as it is."""
        level = self._now()
        if level > 0:
            level *= tokens_per_minute / self.tokens_per_minute
        self._level, self.tokens_per_minute = level, tokens_per_minute

    def charge(self, num_tokens: int) -> None:
        self._level = self._now() - num_tokens

    def empty_for_s(self) -> float:
        """Seconds until there is a token again; 0 if there is one."""
        missing = 1.0 - self._now()
        # A client that comes back after exactly this time is not refused for a rounding error.
        return missing * 60.0 / self.tokens_per_minute if missing > _ROUNDING else 0.0

    def _now(self) -> float:
        now = self._clock()
        grown = (now - self._level_at) * self.tokens_per_minute / 60.0
        self._level = min(self._level + grown, float(self.tokens_per_minute))
        self._level_at = now
        return self._level
