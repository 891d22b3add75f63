"""A router that moves sessions, with siblings that refuse, die, or answer late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from router.drain.desk import DrainDesk
from router.membership.membership import Membership
from router.sessions.record import Keeping
from router.sessions.table import SessionTable
from router.turn.links import Links
from segue.api.cluster.drain import Adopted, HeldSession, LeftReason, MoveReport
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    SegueError,
    TransferFailed,
    Unavailable,
)
from segue.api.prompt import PrefixName
from segue.api.types import Epoch, SessionId, WorkerId
from tests.router.small_cluster import worker

SOURCE = worker("decode-0")
PULLED = Adopted(kept_tokens=32, kept_states=(16, 32), moved_bytes=100)

Answer = SegueError | Callable[[], None] | None


@dataclass
class FakeLink:
    """A decode worker's side: pulls, or does what the test tells it to."""

    worker: WorkerStatus
    answers: dict[str, Answer]
    adopted: list[tuple[WorkerId, SessionId]]
    ended: list[SessionId]
    left_s: float
    renewed: list[tuple[WorkerId, float]]

    async def adopt(
        self, session: HeldSession, source: WorkerStatus, *, timeout_s: float
    ) -> Adopted:
        assert source.worker_id == SOURCE.worker_id
        assert timeout_s > 0
        answer = self.answers.get(self.worker.worker_id)
        if isinstance(answer, SegueError):
            raise answer
        if answer is not None:
            answer()
        self.adopted.append((self.worker.worker_id, session.session_id))
        return PULLED

    async def end_lease(self, session_id: SessionId) -> float:
        if self.worker.worker_id == SOURCE.worker_id:
            return self.left_s
        self.ended.append(session_id)
        return 0.0

    async def renew_lease(
        self, session_id: SessionId, lease_s: float, *, only_longer: bool
    ) -> float:
        assert only_longer
        self.renewed.append((self.worker.worker_id, lease_s))
        return lease_s


class FakeLinks(Links):
    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Answer] = {}
        self.adopted: list[tuple[WorkerId, SessionId]] = []
        self.ended: list[SessionId] = []
        self.left_s = 0.0
        """Of the source's leases."""
        self.renewed: list[tuple[WorkerId, float]] = []

    def decode(self, worker: WorkerStatus) -> FakeLink:  # type: ignore[override]  # what a desk uses
        return FakeLink(worker, self.answers, self.adopted, self.ended, self.left_s, self.renewed)


@dataclass
class World:
    """Three decode workers, of which the first drains, and sessions that are there."""

    table: SessionTable = field(
        default_factory=lambda: SessionTable(max_sessions=100, history_bytes=0)
    )
    links: FakeLinks = field(default_factory=FakeLinks)
    now: float = 0.0
    is_draining: bool = False
    """The router stops."""

    def __post_init__(self) -> None:
        self.membership = Membership(
            model_id="m",
            heartbeat_timeout_s=1e9,
            forget_lost_s=1e9,
            clock=lambda: self.now,
            on_status=lambda status: None,
            on_gone=lambda status: None,
        )
        for name in ("decode-0", "decode-1", "decode-2", "prefill-0"):
            self.membership.heartbeat(worker(name), "m")
        self.desk = DrainDesk(
            self.table,
            self.membership,
            self.links,
            lambda: self.is_draining,
            lambda: self.now,
        )

    def session(self, name: str, *, at: str = "decode-0", pages: int = 2) -> HeldSession:
        record = self.table.of(SessionId(name))
        record.decode_worker = WorkerId(at)
        record.decodes = (
            Keeping(worker_id=WorkerId(at), epoch=Epoch(1), tokens=16 * pages, states=()),
        )
        self.table.add(record)
        return HeldSession(
            session_id=SessionId(name),
            prefixes=(PrefixName(16 * pages, bytes(16)),),
            expires_in_s=60.0,
        )

    async def move(self, *sessions: HeldSession, timeout_s: float = 10.0) -> MoveReport:
        return await self.desk.move(SOURCE.worker_id, SOURCE.epoch, sessions, timeout_s=timeout_s)

    def place(self, name: str) -> str:
        return self.table.of(SessionId(name)).info().decode_worker


async def test_sessions_spread_over_the_siblings_and_the_table_follows() -> None:
    world = World()
    names = ["a", "b", "c", "d"]
    report = await world.move(*(world.session(name) for name in names))

    assert report == MoveReport(dict.fromkeys(map(SessionId, names), 100))
    assert sorted(world.place(name) for name in names) == ["decode-1"] * 2 + ["decode-2"] * 2
    assert world.table.of(SessionId("a")).kept == Keeping(
        worker_id=WorkerId(world.place("a")), epoch=Epoch(1), tokens=32, states=(16, 32)
    )


async def test_the_worker_that_drains_gets_no_turns_at_once() -> None:
    world = World()
    await world.move()

    assert world.membership.find(SOURCE.worker_id) == replace(SOURCE, health=WorkerHealth.DRAINING)


async def test_the_most_recently_used_are_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.drain.desk._AT_ONCE", 1)
    world = World()
    names = [f"s{number}" for number in range(9)]
    await world.move(*(world.session(name) for name in names))

    assert [session_id for _, session_id in world.links.adopted] == names


@pytest.mark.parametrize(
    "error", [Overloaded("full"), Unavailable("drains"), TransferFailed("bytes"), SegueError("?")]
)
async def test_a_session_that_one_refuses_goes_to_the_next(error: SegueError) -> None:
    world = World()
    world.links.answers["decode-1"] = error
    report = await world.move(world.session("a"))

    assert list(report.moved) == ["a"]
    assert world.place("a") == "decode-2"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("full"), LeftReason.NO_MEMORY),
        (Unavailable("drains"), LeftReason.FAILED),
        (NotFound("evicted"), LeftReason.NO_STATE),
        (DeadlineExceeded("slow"), LeftReason.NO_TIME),
    ],
)
async def test_a_session_that_all_refuse_stays(error: SegueError, reason: LeftReason) -> None:
    world = World()
    world.links.answers |= {"decode-1": error, "decode-2": error}
    report = await world.move(world.session("a"))

    assert report == MoveReport(left={SessionId("a"): reason})
    assert world.place("a") == "decode-0"


async def test_without_a_sibling_nothing_moves() -> None:
    world = World()
    world.membership.left(WorkerId("decode-1"), Epoch(1))
    world.membership.drains(WorkerId("decode-2"), Epoch(1))
    report = await world.move(world.session("a"))

    assert report == MoveReport(left={SessionId("a"): LeftReason.NO_WORKER})


async def test_a_session_larger_than_any_pool_stays() -> None:
    world = World()
    report = await world.move(world.session("a", pages=10_001))

    assert report == MoveReport(left={SessionId("a"): LeftReason.NO_MEMORY})


async def test_a_session_that_went_on_elsewhere_or_is_unknown_stays() -> None:
    world = World()
    elsewhere = world.session("a", at="decode-2")
    unknown = replace(elsewhere, session_id=SessionId("b"))
    report = await world.move(elsewhere, unknown)

    assert set(report.left.values()) == {LeftReason.ELSEWHERE}
    assert world.links.adopted == []


async def test_nothing_moves_when_the_cluster_stops_or_the_time_is_up() -> None:
    world = World()
    session = world.session("a")
    assert (await world.move(session, timeout_s=0.0)).left == {"a": LeftReason.NO_TIME}
    world.is_draining = True

    assert (await world.move(session)).left == {"a": LeftReason.STOPPING}


async def test_no_move_starts_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.drain.desk._AT_ONCE", 1)
    world = World()

    def take_long() -> None:
        world.now += 11.0

    world.links.answers |= {"decode-1": take_long, "decode-2": take_long}
    report = await world.move(world.session("a"), world.session("b"))

    assert list(report.moved) == ["a"]
    assert report.left == {"b": LeftReason.NO_TIME}


async def test_no_move_starts_after_the_source_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.drain.desk._AT_ONCE", 1)
    world = World()

    def die() -> None:
        world.membership.lost(SOURCE.worker_id, SOURCE.epoch)

    world.links.answers |= {"decode-1": die, "decode-2": die}
    report = await world.move(world.session("a"), world.session("b"))

    assert list(report.moved) == ["a"]
    assert report.left == {"b": LeftReason.FAILED}


async def test_a_session_that_is_released_during_its_move_gets_no_lease() -> None:
    world = World()

    def release() -> None:
        world.table.release(SessionId("a"))

    world.links.answers |= {"decode-1": release, "decode-2": release}
    report = await world.move(world.session("a"))

    assert report.left == {"a": LeftReason.ELSEWHERE}
    assert world.links.ended == ["a"]
    assert SessionId("a") not in world.table


async def test_a_turn_that_starts_during_the_move_keeps_its_place() -> None:
    world = World()

    def start_a_turn() -> None:
        world.table.of(SessionId("a")).decode_worker = WorkerId("decode-2")

    world.membership.left(WorkerId("decode-2"), Epoch(1))
    world.links.answers["decode-1"] = start_a_turn
    await world.move(world.session("a"))

    assert world.place("a") == "decode-2"
    (kept,) = world.table.of(SessionId("a")).decodes
    assert kept.worker_id == "decode-1"


@pytest.mark.parametrize(("name", "epoch"), [("decode-0", 2), ("decode-9", 1), ("prefill-0", 1)])
async def test_only_a_member_may_ask(name: str, epoch: int) -> None:
    world = World()
    sessions: Sequence[HeldSession] = [world.session("a")]
    with pytest.raises(NotFound, match="is no decode worker of this cluster"):
        await world.desk.move(WorkerId(name), Epoch(epoch), sessions, timeout_s=1.0)


async def test_what_cannot_be_drained_is_refused() -> None:
    world = World()
    with pytest.raises(NotFound, match="no worker is called 'decode-9'; there is decode-0, "):
        await world.desk.drain(WorkerId("decode-9"), None, move_sessions=True)
    world.membership.lost(WorkerId("decode-1"), Epoch(1))
    with pytest.raises(Unavailable, match="decode-1 is lost"):
        await world.desk.drain(WorkerId("decode-1"), None, move_sessions=True)
    with pytest.raises(InvalidRequest, match="timeout_s must be between 0 and 86400, got nan"):
        await world.desk.drain(WorkerId("decode-0"), float("nan"), move_sessions=True)
