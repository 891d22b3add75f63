"""Orders of operators: from the router to the launcher and back."""

from __future__ import annotations

import asyncio

import pytest

from router.orders import SILENT_S, LauncherDesk
from segue.api.cluster.fleet import (
    FleetStatus,
    LauncherReport,
    OrderResult,
    Reloaded,
    ReloadOrder,
    RouterRules,
    ScaleOrder,
)
from segue.api.errors import DeadlineExceeded, InvalidRequest, Unavailable
from tests.router.placed import ManualClock

FLEET = FleetStatus(has_launcher=True, prefill=1, decode=2)
RULES = RouterRules(min_tokens_per_s=5.0, local_prefill_max_tokens=7, slow_start_s=1.0)


class Desk(LauncherDesk):
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.applied: list[RouterRules] = []
        super().__init__(self.clock, self.applied.append)

    def hears(self, *answers: OrderResult) -> list[str]:
        """The names of the orders that the launcher gets."""
        report = LauncherReport(fleet=FLEET, answers=answers, rules=RULES)
        return [one.name for one in self.exchange(report)]


async def test_an_order_is_given_once_and_answered() -> None:
    desk = Desk()
    desk.hears()
    giving = asyncio.ensure_future(desk.give(ReloadOrder()))
    await asyncio.sleep(0)

    (name,) = desk.hears()
    assert desk.hears() == []
    desk.hears(OrderResult(name=name, reloaded=Reloaded(applied=("[router] slow_start_s = 1",))))

    assert (await giving).reloaded.applied == ("[router] slow_start_s = 1",)
    desk.hears(OrderResult(name=name))


async def test_the_launchers_refusal_is_the_callers_error() -> None:
    desk = Desk()
    desk.hears()
    giving = asyncio.ensure_future(desk.give(ScaleOrder(decode=9)))
    await asyncio.sleep(0)
    (name,) = desk.hears()
    desk.hears(OrderResult(name=name, error=InvalidRequest("no room")))

    with pytest.raises(InvalidRequest, match="no room"):
        await giving


async def test_without_a_launcher_orders_are_refused_at_once() -> None:
    desk = Desk()
    with pytest.raises(Unavailable, match="has no launcher"):
        await desk.give(ScaleOrder(decode=2))

    desk.hears()
    assert desk.fleet == FLEET
    desk.clock.now += SILENT_S + 1
    assert not desk.fleet.has_launcher
    with pytest.raises(Unavailable, match="has no launcher"):
        await desk.give(ScaleOrder(decode=2))


async def test_a_launcher_that_does_not_answer_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("router.orders.ANSWER_S", 0.01)
    desk = Desk()
    desk.hears()

    with pytest.raises(DeadlineExceeded, match="did not answer"):
        await desk.give(ScaleOrder(decode=2))
    assert desk.hears() == [], "an order whose caller has gone is not carried out later"


async def test_rules_are_applied_when_they_change() -> None:
    desk = Desk()
    desk.hears()
    desk.hears()

    assert desk.applied == [RULES]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({}, "got neither"),
        ({"decode": 0}, "the number of decode workers must be between 1 and 4096, got 0"),
        ({"prefill": 5000}, "the number of prefill workers must be between 1 and 4096, got 5000"),
        ({"prefill": 1.5}, "must be a whole number"),
    ],
)
def test_numbers_that_no_cluster_has_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ScaleOrder(**numbers)
