"""Operators' orders to the launcher, which polls every router for them about once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from segue.api.cluster.fleet import (
    FleetStatus,
    LauncherReport,
    Order,
    Ordered,
    OrderResult,
    RouterRules,
)
from segue.api.errors import DeadlineExceeded, Unavailable
from segue.process.telemetry import Clock

SILENT_S = 10.0
"""A launcher that has not polled for this long is gone."""
ANSWER_S = 20.0
"""The longest time until the launcher answers an order."""

_NO_LAUNCHER = (
    "this router has no launcher: `segue serve` starts and stops workers, and polls its routers "
    "every second once it is ready. Scale other workers with the tool that started them"
)


class LauncherDesk:
    """One event loop owns it."""

    def __init__(self, clock: Clock, apply: Callable[[RouterRules], None]) -> None:
        """`apply` receives the launcher's rules whenever they change."""
        self._clock = clock
        self._apply = apply
        self._rules: RouterRules | None = None
        self._fleet = FleetStatus()
        self._heard_at: float | None = None
        self._orders: dict[str, Ordered] = {}
        self._answers: dict[str, asyncio.Future[OrderResult]] = {}

    @property
    def fleet(self) -> FleetStatus:
        """The launcher's last report, unless it is gone."""
        if self._heard_at is None or self._clock() - self._heard_at > SILENT_S:
            return FleetStatus()
        return self._fleet

    async def give(self, order: Order) -> OrderResult:
        """Returns when the launcher has accepted the order. Raises its error, and Unavailable if
        there is no launcher."""
        if not self.fleet.has_launcher:
            raise Unavailable(_NO_LAUNCHER)
        ordered = Ordered(order=order)
        answer = asyncio.get_running_loop().create_future()
        self._orders[ordered.name] = ordered
        self._answers[ordered.name] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                got: OrderResult = await answer
        except TimeoutError:
            raise DeadlineExceeded(
                f"the launcher did not answer within {ANSWER_S:g} s; `segue status` shows its state"
            ) from None
        finally:
            self._orders.pop(ordered.name, None)
            del self._answers[ordered.name]
        if got.error is not None:
            raise got.error
        return got

    def exchange(self, report: LauncherReport) -> list[Ordered]:
        """Takes the launcher's report. Returns the orders that it has not received yet."""
        self._fleet, self._heard_at = report.fleet, self._clock()
        if report.rules is not None and report.rules != self._rules:
            self._rules = report.rules
            self._apply(report.rules)
        for answer in report.answers:
            waiting = self._answers.get(answer.name)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        orders, self._orders = list(self._orders.values()), {}
        return orders
