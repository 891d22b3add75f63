from __future__ import annotations

import asyncio

import pytest

from kv_transfer.ticket import Ticket
from kv_transfer.transport.cache_memory import checksums_of
from segue.api.cluster.status import UnitCounts
from segue.api.errors import (
    Cancelled,
    InvalidRequest,
    NotFound,
    Overloaded,
    StaleEpoch,
    TransferFailed,
)
from segue.api.turn import PrefillOutcome, ShipReport
from segue.api.types import Epoch, SampledToken, TurnId, WorkerId
from tests.kv_transfer.world import Clock, Events, World

OUTCOME = PrefillOutcome(first_token=SampledToken(token_id=7), report=ShipReport(cached_tokens=3))


class Desk:
    """A reader with its surroundings."""

    def __init__(self, world: World, num_pages: int = 16) -> None:
        self.world = world
        self.clock = Clock()
        self.events = Events()
        self.node = world.node("decode-0", num_pages=num_pages)
        self.prefill = world.node("prefill-0")
        self.reader = world.reader(self.node, clock=self.clock, events=self.events)

    def reserve(self, turn: str = "", num_tokens: int = 10, extra: int = 5) -> Ticket:
        return self.world.reserve(
            self.reader, self.prefill, turn=turn, num_tokens=num_tokens, extra=extra
        )

    async def commit(self, ticket: Ticket) -> None:
        sums = checksums_of(self.node.memory_map, ticket.page_ids, ticket.slot_id)
        await self.reader.commit(ticket.ticket_id, Epoch(1), sums)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def test_a_ticket_names_the_prompts_pages_and_also_reserves_the_answers(desk: Desk) -> None:
    ticket = desk.reserve(num_tokens=10, extra=5)

    assert len(ticket.page_ids) == 3
    assert ticket.reader.worker_id == "decode-0"
    assert desk.node.pages.counts() == UnitCounts(total=16, free=12, reserved=4)
    assert desk.node.slots.counts() == UnitCounts(total=3, free=2, reserved=1)


def test_a_lack_of_pages_is_overload_and_takes_nothing(desk: Desk) -> None:
    desk.reserve(num_tokens=50, extra=0)

    with pytest.raises(Overloaded, match="4 pages wanted"):
        desk.reserve(num_tokens=10, extra=5)

    assert desk.node.slots.counts().reserved == 1


def test_a_lack_of_slots_is_overload_and_takes_no_page(desk: Desk) -> None:
    for _ in range(3):
        desk.reserve(num_tokens=1, extra=0)

    with pytest.raises(Overloaded, match="1 slots wanted"):
        desk.reserve(num_tokens=1, extra=0)

    assert desk.node.pages.counts().reserved == 3


def test_a_reservation_that_could_never_fit_is_an_invalid_request(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match="need 17 pages, decode-0 has 16"):
        desk.reserve(num_tokens=64, extra=1)


def test_a_turn_has_one_live_ticket(desk: Desk) -> None:
    desk.reserve("turn-a")

    with pytest.raises(InvalidRequest, match="turn turn-a has a reservation"):
        desk.reserve("turn-a")
    desk.world.give_up("turn-a", "retry")

    desk.reserve("turn-a")


async def test_a_commit_hands_over_pages_and_slot_as_working_units(desk: Desk) -> None:
    ticket = desk.reserve("turn-a", num_tokens=10, extra=5)
    sums = checksums_of(desk.node.memory_map, ticket.page_ids, ticket.slot_id)

    await desk.reader.commit(ticket.ticket_id, Epoch(1), sums, OUTCOME)

    arrival = await desk.world.reservations[TurnId("turn-a")].arrived()
    assert arrival.outcome == OUTCOME
    assert arrival.pages[:3] == ticket.page_ids
    assert len(arrival.pages) == 4
    assert arrival.slot == ticket.slot_id
    assert desk.node.pages.counts() == UnitCounts(total=16, free=12, working=4)
    assert desk.node.slots.counts() == UnitCounts(total=3, free=2, working=1)
    assert desk.world.lost() == {}


async def test_different_bytes_fail_the_transfer_and_free_everything(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")
    sums = checksums_of(desk.node.memory_map, ticket.page_ids, ticket.slot_id)

    with pytest.raises(TransferFailed, match=r"turn turn-a: kv: sent [0-9a-f]{8}, arrived"):
        await desk.reader.commit(ticket.ticket_id, Epoch(1), sums | {"kv": sums["kv"] ^ 1})

    assert desk.node.pages.counts().free == 16
    assert list(desk.world.lost()) == ["turn-a"]
    assert desk.events.num_freed == 1


async def test_a_missing_checksum_counts_as_a_difference(desk: Desk) -> None:
    ticket = desk.reserve()

    with pytest.raises(TransferFailed, match="conv: sent nothing"):
        await desk.reader.commit(ticket.ticket_id, Epoch(1), {})


async def test_a_commit_needs_a_known_ticket_of_this_life(desk: Desk) -> None:
    ticket = desk.reserve()

    with pytest.raises(StaleEpoch, match="epoch 9 of decode-0, which is in epoch 1"):
        await desk.reader.commit(ticket.ticket_id, Epoch(9), {})
    with pytest.raises(NotFound, match="nonsense is not known to decode-0"):
        await desk.reader.commit(type(ticket.ticket_id)("nonsense"), Epoch(1), {})


async def test_a_ticket_can_be_committed_once(desk: Desk) -> None:
    ticket = desk.reserve()
    await desk.commit(ticket)

    with pytest.raises(NotFound, match="has been used"):
        await desk.commit(ticket)

    assert desk.node.pages.counts().working == 4


async def test_a_late_commit_after_giving_up_frees_the_units_and_revives_nothing(
    desk: Desk,
) -> None:
    ticket = desk.reserve("turn-a")

    desk.world.give_up("turn-a", "the client hung up")
    assert desk.node.pages.counts().quarantined == 4
    with pytest.raises(NotFound, match="was given up: the client hung up"):
        await desk.commit(ticket)

    assert desk.node.pages.counts().free == 16
    assert desk.world.lost() == {"turn-a": "the client hung up"}


async def test_a_commit_after_the_expiry_is_too_late_even_before_the_next_check(desk: Desk) -> None:
    ticket = desk.reserve()
    desk.clock.now += 31

    with pytest.raises(NotFound, match="expired"):
        await desk.commit(ticket)

    assert desk.node.pages.counts().free == 16


async def test_giving_up_while_bytes_are_verified_frees_them_at_once(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")
    committing = asyncio.ensure_future(desk.commit(ticket))
    await asyncio.sleep(0)

    desk.world.give_up("turn-a", "released")
    with pytest.raises(NotFound, match="released"):
        await committing

    assert desk.node.pages.counts().free == 16


async def test_a_cancelled_commit_leaves_nothing_behind(desk: Desk) -> None:
    ticket = desk.reserve()
    committing = asyncio.ensure_future(desk.commit(ticket))
    await asyncio.sleep(0)

    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing

    assert desk.node.pages.counts().free == 16
    assert len(desk.world.lost()) == 1


def test_an_abort_frees_at_once_because_the_writer_has_stopped(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")

    desk.reader.abort(ticket.ticket_id, Epoch(1), "prefill ran out of pages")
    desk.reader.abort(ticket.ticket_id, Epoch(1), "again")

    assert desk.node.pages.counts().free == 16
    assert desk.world.lost() == {
        "turn-a": "the prompt of turn turn-a did not arrive: prefill ran out of pages"
    }


def test_an_abort_of_another_life_is_refused_and_one_of_an_unknown_ticket_is_ignored(
    desk: Desk,
) -> None:
    ticket = desk.reserve()

    with pytest.raises(StaleEpoch):
        desk.reader.abort(ticket.ticket_id, Epoch(2), "wrong life")
    desk.reader.abort(type(ticket.ticket_id)("forgotten"), Epoch(1), "late")

    assert desk.node.pages.counts().reserved == 4


def test_an_expired_ticket_is_quarantined_until_the_fence_is_answered(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")
    desk.clock.now += 31

    desk.reader.expire_due()
    (fence,) = desk.reader.fence_pending()
    desk.clock.now += 3600
    desk.reader.expire_due()

    assert (fence.ticket_id, fence.writer.worker_id) == (ticket.ticket_id, "prefill-0")
    assert desk.node.pages.counts().quarantined == 4
    assert desk.world.lost() == {
        "turn-a": "the prompt of turn turn-a did not arrive: the ticket expired"
    }
    desk.reader.fenced(ticket.ticket_id)
    assert desk.node.pages.counts().free == 16
    assert desk.reader.fence_pending() == []


def test_a_later_life_of_the_writer_ends_reservation_and_quarantine(desk: Desk) -> None:
    desk.reserve("turn-a")
    desk.reserve("turn-b")
    desk.world.give_up("turn-b", "released")

    desk.reader.members_changed({WorkerId("prefill-0"): Epoch(1)})
    assert desk.node.pages.counts().free == 8
    desk.reader.members_changed({WorkerId("prefill-0"): Epoch(2)})

    assert desk.node.pages.counts().free == 16
    assert desk.world.lost() == {
        "turn-a": "the prompt of turn turn-a did not arrive: the writer died",
        "turn-b": "released",
    }


def test_an_absent_writer_is_dead_only_if_it_is_unreachable_too(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")
    desk.world.give_up("turn-a", "released")

    desk.reader.writer_unreachable(ticket.ticket_id)
    desk.reader.members_changed({WorkerId("prefill-0"): Epoch(1)})
    desk.reader.writer_unreachable(ticket.ticket_id)
    desk.reader.members_changed({})
    assert desk.node.pages.counts().quarantined == 4

    desk.reader.writer_unreachable(ticket.ticket_id)
    assert desk.node.pages.counts().free == 16


def test_a_writer_whose_next_life_has_a_smaller_epoch_is_dead_once_it_is_unreachable(
    desk: Desk,
) -> None:
    # Its clock was set back while the router, which alone knew better, restarted.
    ticket = desk.reserve("turn-a")
    desk.world.give_up("turn-a", "released")

    desk.reader.members_changed({WorkerId("prefill-0"): Epoch(0)})
    assert desk.node.pages.counts().quarantined == 4, "it may be an old view"

    desk.reader.writer_unreachable(ticket.ticket_id)
    assert desk.node.pages.counts().free == 16


async def test_only_the_outcome_of_an_ended_handoff_is_remembered(desk: Desk) -> None:
    used, given_up = desk.reserve(), desk.reserve("turn-b")
    await desk.commit(used)
    desk.reader.abort(given_up.ticket_id, Epoch(1), "prefill ran out of pages")

    assert desk.reader.owners() == set()
    with pytest.raises(NotFound, match="has been used; reserve again"):
        await desk.commit(used)
    with pytest.raises(NotFound, match="was given up: prefill ran out of pages"):
        await desk.commit(given_up)
    desk.reader.abort(used.ticket_id, Epoch(1), "late news")


async def test_every_transition_is_reported_to_the_counter(desk: Desk) -> None:
    await desk.commit(desk.reserve())
    desk.reserve("turn-b")
    desk.world.give_up("turn-b", "released")

    assert desk.events.steps == [
        ("reserved", "verifying"),
        ("verifying", "committed"),
        ("reserved", "quarantined"),
    ]
    assert len(desk.reader.fence_pending()) == 1


async def test_units_that_arrived_and_were_not_taken_are_given_back(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")
    reservation = desk.world.reservations[TurnId("turn-a")]
    with reservation:
        await desk.commit(ticket)
        assert desk.node.pages.counts().working == 4

    assert desk.node.pages.counts().free == 16
    assert desk.node.slots.counts().free == 3
    assert desk.events.num_freed == 1
    with pytest.raises(Cancelled, match="nothing waits for it"):
        await reservation.arrived()


async def test_units_that_were_taken_are_not_given_back(desk: Desk) -> None:
    ticket = desk.reserve("turn-a")
    with desk.world.reservations[TurnId("turn-a")] as reservation:
        await desk.commit(ticket)
        await reservation.arrived()

    assert desk.node.pages.counts().working == 4


async def test_a_cancelled_wait_quarantines_units_that_are_being_written(
    desk: Desk,
) -> None:
    desk.reserve("turn-a")

    async def receive() -> None:
        with desk.world.reservations[TurnId("turn-a")] as reservation:
            await reservation.arrived()

    receiving = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])

    assert receiving.cancelled()
    assert desk.node.pages.counts().quarantined == 4
