"""Reader and writer together over the loopback transport, without gRPC."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv_transfer.ticket import Ticket
from kv_transfer.writing.outgoing import Outgoing
from segue.api.errors import Cancelled, NotFound, TransferFailed
from segue.api.types import Epoch, PageId, SlotId, WorkerId
from segue.cache.unit_pool import UnitState
from tests.kv_transfer.world import NUM_LAYERS, PAGE_TOKENS, Node, World, ship_all

READER = Epoch(1)


def ship_in_chunks(outgoing: Outgoing, num_tokens: int, chunk_tokens: int) -> None:
    """Like prefill: reports the complete pages after each layer of each chunk."""
    num_pages = -(-num_tokens // PAGE_TOKENS)
    first = 0
    for end in itertools.chain(range(chunk_tokens, num_tokens, chunk_tokens), [num_tokens]):
        is_last = end == num_tokens
        complete = num_pages if is_last else end // PAGE_TOKENS
        for layer in range(NUM_LAYERS):
            outgoing.layer_ready(layer, pages=range(first, complete), with_slot=is_last)
        first = complete


@given(
    num_tokens=st.integers(1, 40),
    chunk_tokens=st.integers(1, 41),
    pages=st.permutations(range(12)),
    taken=st.sets(st.integers(0, 11), max_size=2),
    slot=st.integers(0, 2),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_any_prompt_in_any_chunks_into_any_pages_arrives_unchanged(
    num_tokens: int, chunk_tokens: int, pages: list[int], taken: set[int], slot: int
) -> None:
    world = World()
    source, target = world.node("prefill-0", num_pages=12), world.node("decode-0", num_pages=13)
    source.fill(seed=num_tokens)
    target.fill(seed=99)
    reader, writer = world.reader(target), world.writer(source)
    fragment_the_free_pages(target, taken)
    ticket = world.reserve(reader, source, num_tokens=num_tokens, extra=0)
    source_pages = tuple(PageId(page) for page in pages[: len(ticket.page_ids)])

    async def handoff() -> None:
        outgoing = writer.start(
            ticket, target.memory_map, source_pages=source_pages, source_slot=SlotId(slot)
        )
        ship_in_chunks(outgoing, num_tokens, chunk_tokens)
        result = await outgoing.finish()
        await reader.commit(ticket.ticket_id, READER, result.checksums)

    asyncio.run(handoff())

    sent = source.content(source_pages, SlotId(slot))
    assert target.content(ticket.page_ids, ticket.slot_id) == sent
    world.close()


def fragment_the_free_pages(node: Node, taken: set[int]) -> None:
    pages = node.pages.take(node.pages.total, UnitState.WORKING)
    node.pages.give_back([page for page in pages if page not in taken], UnitState.WORKING)


@dataclasses.dataclass
class Handoff:
    world: World
    source: Node
    target: Node

    def __post_init__(self) -> None:
        self.source.fill(seed=1)
        self.reader = self.world.reader(self.target)
        self.writer = self.world.writer(self.source)
        self.ticket: Ticket = self.world.reserve(self.reader, self.source, turn="turn-a")

    def start(self) -> Outgoing:
        pages = tuple(PageId(i) for i in range(3))
        return self.writer.start(
            self.ticket, self.target.memory_map, source_pages=pages, source_slot=SlotId(0)
        )


@pytest.fixture
def handoff(world: World) -> Handoff:
    return Handoff(world, world.node("prefill-0"), world.node("decode-0"))


async def test_bytes_that_change_in_transit_are_detected(handoff: Handoff) -> None:
    handoff.world.network.corrupt_next()
    outgoing = handoff.start()
    ship_all(outgoing, num_pages=3)
    result = await outgoing.finish()

    with pytest.raises(TransferFailed, match="turn turn-a: recurrent: sent"):
        await handoff.reader.commit(handoff.ticket.ticket_id, READER, result.checksums)

    assert handoff.target.pages.counts().free == 16
    assert handoff.target.slots.counts().free == 3


async def test_pages_are_freed_after_a_failed_write_and_its_abort(handoff: Handoff) -> None:
    handoff.world.network.fail_next()
    outgoing = handoff.start()
    ship_all(outgoing, num_pages=3)

    with pytest.raises(TransferFailed) as failed:
        await outgoing.finish()
    handoff.reader.abort(handoff.ticket.ticket_id, READER, str(failed.value))

    assert handoff.target.pages.counts().free == 16


async def test_giving_up_while_bytes_move_frees_only_after_the_fence(handoff: Handoff) -> None:
    handoff.world.network.hold()
    outgoing = handoff.start()
    ship_all(outgoing, num_pages=3)
    assert await asyncio.to_thread(handoff.world.network.wait_until_held, 5.0)

    handoff.world.give_up("turn-a", "the client hung up")
    (fence,) = handoff.reader.fence_pending()
    fencing = asyncio.ensure_future(handoff.writer.fence(fence.ticket_id))
    await asyncio.wait([fencing], timeout=0.02)
    assert not fencing.done()
    assert handoff.target.pages.counts().quarantined == 4
    handoff.world.network.release()
    await fencing
    handoff.reader.fenced(fence.ticket_id)

    assert handoff.target.pages.counts().free == 16
    with pytest.raises(Cancelled):
        await outgoing.finish()


async def test_a_commit_after_giving_up_is_refused(handoff: Handoff) -> None:
    outgoing = handoff.start()
    ship_all(outgoing, num_pages=3)
    result = await outgoing.finish()
    handoff.world.give_up("turn-a", "too slow")

    with pytest.raises(NotFound, match="too slow"):
        await handoff.reader.commit(handoff.ticket.ticket_id, READER, result.checksums)

    assert handoff.target.pages.counts().free == 16


async def test_the_writers_next_life_frees_the_units_of_the_last_one(handoff: Handoff) -> None:
    outgoing = handoff.start()
    outgoing.layer_ready(1, pages=range(2))
    await outgoing.stop("the process is killed")
    handoff.world.network.disconnect(handoff.source.transport.segment)

    handoff.reader.members_changed({WorkerId("prefill-0"): Epoch(2)})

    assert handoff.target.pages.counts().free == 16


async def test_an_unreachable_reader_fails_the_handoff_and_not_the_next(handoff: Handoff) -> None:
    handoff.world.network.disconnect(handoff.target.transport.segment)
    outgoing = handoff.start()
    ship_all(outgoing, num_pages=3)
    with pytest.raises(TransferFailed, match="decode-0:1: no such segment"):
        await outgoing.finish()

    other = handoff.world.node("decode-1")
    other_reader = handoff.world.reader(other)
    ticket = handoff.world.reserve(other_reader, handoff.source)
    pages = tuple(PageId(i) for i in range(3))
    again = handoff.writer.start(
        ticket, other.memory_map, source_pages=pages, source_slot=SlotId(0)
    )
    ship_all(again, num_pages=3)
    result = await again.finish()

    await other_reader.commit(ticket.ticket_id, READER, result.checksums)


async def test_a_reader_that_holds_a_prefix_gets_only_the_rest(handoff: Handoff) -> None:
    page_bytes = handoff.target.memory_map.layout.page_bytes
    ticket = dataclasses.replace(
        handoff.ticket, resident_tokens=2 * PAGE_TOKENS, page_ids=handoff.ticket.page_ids[:1]
    )
    outgoing = handoff.writer.start(
        ticket,
        handoff.target.memory_map,
        source_pages=(PageId(4), PageId(5), PageId(6)),
        source_slot=SlotId(0),
    )
    ship_all(outgoing, num_pages=3)

    result = await outgoing.finish()

    slot_bytes = handoff.target.memory_map.layout.slot_bytes
    assert result.shipped_bytes == page_bytes + slot_bytes
    sent = handoff.source.content((PageId(6),), SlotId(0))
    assert handoff.target.content(ticket.page_ids, ticket.slot_id) == sent


async def test_concurrent_handoffs_do_not_mix(world: World) -> None:
    source, target = world.node("prefill-0"), world.node("decode-0", num_pages=64)
    source.fill(seed=4)
    reader, writer = world.reader(target), world.writer(source)

    async def one(number: int) -> None:
        ticket = world.reserve(reader, source)
        pages = tuple(PageId((number + i) % 16) for i in (0, 3, 5))
        outgoing = writer.start(
            ticket, target.memory_map, source_pages=pages, source_slot=SlotId(number)
        )
        await asyncio.to_thread(ship_in_chunks, outgoing, 10, 3)
        result = await outgoing.finish()
        await reader.commit(ticket.ticket_id, READER, result.checksums)
        assert target.content(ticket.page_ids, ticket.slot_id) == source.content(
            pages, SlotId(number)
        )

    await asyncio.gather(*(one(number) for number in range(3)))
