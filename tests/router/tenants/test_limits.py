"""A tenant's turns and tokens, in virtual time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from router.metrics import TenantMetrics
from router.tenants.accounts import TenantAccounts, TokenBudget, part_of, refusal
from router.tenants.tenant import Limits, Tenant
from segue.api.errors import Overloaded
from tests.router.placed import ManualClock


@pytest.mark.parametrize(
    ("limits", "num_turns", "empty_for_s", "limit"),
    [
        (Limits(), 1_000, 0.0, None),
        (Limits(max_turns=2), 1, 0.0, None),
        (Limits(max_turns=2), 2, 0.0, "turns"),
        (Limits(max_turns=2), 3, 0.0, "turns"),
        (Limits(tokens_per_minute=60), 0, 0.0, None),
        (Limits(tokens_per_minute=60), 0, 0.1, "tokens"),
        (Limits(max_turns=1, tokens_per_minute=60), 1, 5.0, "turns"),
    ],
)
def test_which_limit_refuses_a_turn(
    limits: Limits, num_turns: int, empty_for_s: float, limit: str | None
) -> None:
    refused = refusal(limits, num_turns, empty_for_s)

    assert (refused.limit if refused else None) == limit


@pytest.mark.parametrize(
    ("charges", "waited_s", "empty_for_s"),
    [
        ([], 0.0, 0.0),
        ([59], 0.0, 0.0),
        ([60], 0.0, 1.0),
        ([30, 30], 0.0, 1.0),
        # Overdrawn by 60: a minute for the debt, a second for the next token.
        ([120], 0.0, 61.0),
        ([120], 30.0, 31.0),
        ([120], 61.0, 0.0),
        # It never holds more than a minute's tokens.
        ([1], 600.0, 0.0),
    ],
)
def test_a_budget_of_60_tokens_a_minute(
    charges: Iterable[int], waited_s: float, empty_for_s: float
) -> None:
    time = ManualClock()
    budget = TokenBudget(60, time)
    time.now += 1_000.0
    for tokens in charges:
        budget.charge(tokens)

    time.now += waited_s

    assert budget.empty_for_s() == pytest.approx(empty_for_s)


@pytest.mark.parametrize("tokens_a_turn", [1, 7, 100, 5_000])
def test_in_the_long_run_a_tenant_gets_its_rate(tokens_a_turn: int) -> None:
    time = ManualClock()
    budget = TokenBudget(600, time)
    used = 0
    while time.now < 100.0 + 6_000.0:
        if wait_s := budget.empty_for_s():
            time.now += wait_s
            continue
        budget.charge(tokens_a_turn)
        used += tokens_a_turn
        time.now += 0.01

    assert used == pytest.approx(600 * 101, rel=0.1)


@dataclass
class Routers:
    num_routers: int = 1


def accounts(time: ManualClock, routers: Routers | None = None) -> TenantAccounts:
    routers = routers or Routers()
    return TenantAccounts(TenantMetrics(CollectorRegistry()), time, lambda: routers.num_routers)


def test_turns_count_until_they_end_even_by_an_error() -> None:
    held, acme = accounts(ManualClock()), Tenant(name="acme", limits=Limits(max_turns=1))

    with held.turn(acme):
        with (
            pytest.raises(
                Overloaded, match="1 turn of this tenant is in flight, and its max_turns"
            ),
            held.turn(acme),
        ):
            pass
        with held.turn(Tenant(name="blue", limits=Limits(max_turns=1))):
            pass
    with pytest.raises(RuntimeError), held.turn(acme):
        raise RuntimeError

    with held.turn(acme):
        pass


def test_used_tokens_refuse_the_next_turn_until_they_are_back() -> None:
    time = ManualClock()
    held, acme = accounts(time), Tenant(name="acme", limits=Limits(tokens_per_minute=60))
    with held.turn(acme):
        # It runs on, whatever it costs.
        held.charge(acme, computed=50, generated=40)

    with pytest.raises(Overloaded, match="60 tokens a minute") as refused, held.turn(acme):
        pass

    assert refused.value.retry_after_s == pytest.approx(31.0)
    time.now += refused.value.retry_after_s
    with held.turn(acme):
        pass


def test_a_changed_rate_starts_a_new_budget() -> None:
    time = ManualClock()
    held = accounts(time)
    held.charge(
        Tenant(name="acme", limits=Limits(tokens_per_minute=60)), computed=10**9, generated=0
    )

    with held.turn(Tenant(name="acme", limits=Limits(tokens_per_minute=100))):
        pass
    with held.turn(Tenant(name="acme")):
        pass


@pytest.mark.parametrize(
    ("max_turns", "num_routers", "admitted"), [(4, 1, 4), (4, 2, 2), (5, 2, 3), (1, 3, 1)]
)
def test_each_of_several_routers_admits_its_part(
    max_turns: int, num_routers: int, admitted: int
) -> None:
    held = accounts(ManualClock(), Routers(num_routers))
    acme = Tenant(name="acme", limits=Limits(max_turns=max_turns))
    with contextlib.ExitStack() as turns:
        for _ in range(admitted):
            turns.enter_context(held.turn(acme))
        with pytest.raises(Overloaded, match=f"its max_turns is {admitted}"), held.turn(acme):
            pass
    assert part_of(Limits(), num_routers) == Limits(), "no limit stays none"


def test_a_debt_stays_when_a_router_joins_or_leaves() -> None:
    time, routers = ManualClock(), Routers(1)
    held = accounts(time, routers)
    acme = Tenant(name="acme", limits=Limits(tokens_per_minute=600))
    held.charge(acme, computed=600 + 300, generated=0)
    routers.num_routers = 2

    message = "300 tokens a minute on this one of 2 routers"
    with pytest.raises(Overloaded, match=message) as refused, held.turn(acme):
        pass
    # 300 of debt and one more, at 5 a second.
    assert refused.value.retry_after_s == pytest.approx(301 / 5)
    routers.num_routers = 1
    with pytest.raises(Overloaded) as refused, held.turn(acme):
        pass
    assert refused.value.retry_after_s == pytest.approx(301 / 10)


def test_what_is_left_is_divided_and_never_multiplied() -> None:
    routers = Routers(1)
    held = accounts(ManualClock(), routers)
    acme = Tenant(name="acme", limits=Limits(tokens_per_minute=600))
    held.charge(acme, computed=500, generated=0)
    for number in (2, 1, 2, 1):
        routers.num_routers = number
        with held.turn(acme):
            pass
    held.charge(acme, computed=100, generated=0)

    with pytest.raises(Overloaded), held.turn(acme):
        pass


def test_a_thousand_tenants_have_a_bounded_number_of_series() -> None:
    registry = CollectorRegistry()
    metrics = TenantMetrics(registry)
    for number in range(1_000):
        metrics.ended(f"tenant-{number}", "stop")

    assert (
        registry.get_sample_value(
            "segue_tenant_turns_total", {"tenant": "other", "outcome": "stop"}
        )
        == 900
    )
    samples = [s for family in registry.collect() for s in family.samples]
    assert len([s for s in samples if s.name == "segue_tenant_turns_total"]) == 101
