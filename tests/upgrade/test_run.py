"""A rolling restart of processes that die, come back late, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from segue.api.errors import DeadlineExceeded, InvalidRequest, Unavailable
from segue.upgrade import run
from segue.upgrade.plan import Member, ProcessKind, ProcessView
from segue.upgrade.run import Upgrade

MEMBERS = [Member(kind, f"{kind}-{number}") for kind in ProcessKind for number in range(2)]


@dataclass
class FakeProcesses:
    """Each look takes a second. A drained process shows once more, then is away for some."""

    members: list[Member] = field(default_factory=lambda: list(MEMBERS))
    looks_away: int = 3
    now: float = 1_000.0
    born_at: dict[Member, float] = field(default_factory=dict)
    away_until: dict[Member, float] = field(default_factory=dict)
    drained: list[Member] = field(default_factory=list)
    unreachable_looks: int = 0
    most_away: int = 0
    dies_before_its_drain: Member | None = None

    def clock(self) -> float:
        return self.now

    async def look(self) -> Sequence[ProcessView]:
        self.now += 1.0
        if self.unreachable_looks:
            self.unreachable_looks -= 1
            raise Unavailable("nothing listens there")
        away = [m for m, until in self.away_until.items() if until - self.looks_away < self.now]
        away = [m for m in away if self.now <= self.away_until[m]]
        self.most_away = max(self.most_away, len(away))
        # One that is away is not seen at all, or seen as lost.
        return [
            ProcessView(member, member not in away, self.now - self.born_at.get(member, 0.0))
            for member in self.members
            if member not in away or member.kind >= ProcessKind.ROUTER
        ]

    async def drain(self, member: Member) -> str:
        if member == self.dies_before_its_drain:
            self._end(member)
            raise Unavailable(f"{member} is lost: there is nothing to drain")
        self.drained.append(member)
        self.now += 2.0
        self._end(member)
        return "2 turns ended"

    def _end(self, member: Member) -> None:
        self.away_until[member] = self.now + 1.0 + self.looks_away
        self.born_at[member] = self.away_until[member]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LOOK_EVERY_S", 0.0)


def upgrade_of(processes: FakeProcesses, lines: list[str], **options: Any) -> Upgrade:
    options = {"ready_timeout_s": 30.0, **options}
    return Upgrade(processes, lines.append, clock=processes.clock, **options)


async def test_each_process_restarts_once_and_never_two_at_once() -> None:
    processes, lines = FakeProcesses(), list[str]()

    restarted = await upgrade_of(processes, lines).run()

    assert restarted == processes.drained == MEMBERS
    assert processes.most_away == 1
    assert [line.split(" in ")[0] for line in lines if " drained in " in line] == [
        f"{member} drained" for member in MEMBERS
    ]
    assert sum(line.startswith("all ready again after") for line in lines) == len(MEMBERS)


async def test_one_that_goes_on_restarts_only_what_is_left() -> None:
    processes = FakeProcesses()
    # The other one started 100 s ago and restarted three.
    processes.born_at = dict.fromkeys(MEMBERS[:3], processes.now - 50.0)

    restarted = await upgrade_of(processes, [], ran_s=100.0).run()

    assert restarted == MEMBERS[3:]


async def test_a_successor_that_does_not_come_ends_it() -> None:
    processes = FakeProcesses(looks_away=1_000)

    with pytest.raises(DeadlineExceeded, match=r"successor of prefill-0 to be ready within 30 s"):
        await upgrade_of(processes, []).run()

    assert processes.drained == MEMBERS[:1]


async def test_a_process_that_does_not_end_is_not_taken_for_its_successor() -> None:
    processes = FakeProcesses()
    processes._end = lambda member: None  # type: ignore[method-assign]

    with pytest.raises(DeadlineExceeded, match=r"successor of prefill-0"):
        await upgrade_of(processes, []).run()

    assert processes.drained == MEMBERS[:1]


async def test_a_process_that_dies_before_its_drain_has_restarted() -> None:
    processes, lines = FakeProcesses(dies_before_its_drain=MEMBERS[2]), list[str]()

    restarted = await upgrade_of(processes, lines).run()

    assert restarted == MEMBERS
    assert any("decode-0 is lost" in line for line in lines)


async def test_a_lone_process_is_refused_before_anything_restarts() -> None:
    processes = FakeProcesses(members=MEMBERS[:-1])

    starts: list[float] = []

    def on_start() -> None:
        starts.append(processes.now)

    with pytest.raises(InvalidRequest, match=r"only gateway-0"):
        await upgrade_of(processes, [], on_start=on_start).run()
    assert processes.drained == starts == []

    restarted = await upgrade_of(processes, [], may_interrupt=True, on_start=on_start).run()
    assert restarted == MEMBERS[:-1]
    assert len(starts) == 1


async def test_a_process_that_just_starts_is_waited_for_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "_FIRST_LOOK_EVERY_S", 0.0)
    assert len(await upgrade_of(FakeProcesses(unreachable_looks=2), []).run()) == len(MEMBERS)

    with pytest.raises(Unavailable, match="nothing listens"):
        await upgrade_of(FakeProcesses(unreachable_looks=1_000), []).run()
