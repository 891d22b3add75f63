"""The next step of a rolling restart, as a table."""

from __future__ import annotations

import pytest

from segue.api.errors import InvalidRequest
from segue.upgrade.plan import (
    Done,
    Member,
    ProcessKind,
    ProcessView,
    Restart,
    Step,
    Wait,
    next_step,
)

P0, P1 = (Member(ProcessKind.PREFILL, f"prefill-{n}") for n in range(2))
D0, D1 = (Member(ProcessKind.DECODE, f"decode-{n}") for n in range(2))
R0, R1 = (Member(ProcessKind.ROUTER, f"r{n}:7411") for n in range(2))
G0, G1 = (Member(ProcessKind.GATEWAY, f"http://g{n}") for n in range(2))
ALL = (P0, P1, D0, D1, R0, R1, G0, G1)
AGE_S = 100.0


def look(*, new: tuple[Member, ...] = (), away: tuple[Member, ...] = ()) -> list[ProcessView]:
    """All processes are ready; `new` have restarted since, and `away` are not ready."""
    return [
        ProcessView(member, member not in away, 5.0 if member in new else 5_000.0)
        for member in reversed(ALL)
    ]


def step(seen: list[ProcessView], known: tuple[Member, ...] = ALL) -> Step:
    return next_step(seen, known=known, age_s=AGE_S)


@pytest.mark.parametrize("number", range(len(ALL)))
def test_processes_restart_in_the_order_in_which_they_are_called(number: int) -> None:
    assert step(look(new=ALL[:number])) == Restart(ALL[number])


def test_it_is_done_when_all_have_restarted() -> None:
    assert step(look(new=ALL)) == Done()


@pytest.mark.parametrize("away", ALL)
def test_nothing_restarts_while_a_process_is_away(away: Member) -> None:
    assert step(look(new=(P0,), away=(away,))) == Wait((away,))


def test_a_process_that_is_not_seen_at_all_is_waited_for() -> None:
    assert step([one for one in look(new=(P0,)) if one.member != D1]) == Wait((D1,))


def test_it_goes_on_where_another_one_was_interrupted() -> None:
    # Whatever was known to the other one.
    seen = look(new=(P0, P1, D0))
    assert step(seen, known=()) == Restart(D1)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (P1, r"two prefill workers, .*only prefill-0: start two with --prefill 2, .* or accept"),
        (D1, r"two decode workers, .*only decode-0"),
        (R1, r"two routers, .*only r0:7411: .*name both with --target"),
        (G1, r"two gateways, .*only http://g0: .*name both with --gateway"),
    ],
)
def test_the_only_process_of_a_kind_is_not_restarted_unless_that_is_accepted(
    missing: Member, words: str
) -> None:
    seen = [one for one in look() if one.member != missing]
    known = {*ALL} - {missing}
    with pytest.raises(InvalidRequest, match=words):
        next_step(seen, known=known, age_s=AGE_S)

    # Before the first one restarts.
    accepted = next_step(seen, known=known, age_s=AGE_S, may_interrupt=True)
    assert accepted == Restart(P0)


def test_a_lone_process_that_has_restarted_is_no_reason_to_stop() -> None:
    seen = [one for one in look(new=(G0,)) if one.member != G1]
    assert step(seen, known=tuple({*ALL} - {G1})) == Restart(P0)
