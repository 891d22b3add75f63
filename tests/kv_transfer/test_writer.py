from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from kv_transfer.transport.cache_memory import HostMemory
from kv_transfer.writing.outgoing import IncompleteHandoff, ShipLimits
from segue.api.types import Epoch
from tests.kv_transfer.pair import Pair
from tests.kv_transfer.world import World, ship_all


async def test_all_ready_pages_have_arrived_when_finish_returns(pair: Pair) -> None:
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)

    result = await outgoing.finish()

    layout = pair.reader_map.layout
    assert pair.has_arrived()
    assert result.shipped_bytes == 3 * layout.page_bytes + layout.slot_bytes
    assert result.checksums.keys() == {"kv", "recurrent", "conv"}
    assert result.transfer_s > 0
    assert not outgoing.is_open


class QueuedWork(HostMemory):
    """Queued work of a device that has not computed anything yet."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.is_awaited = threading.Event()

    def queued(self) -> Callable[[], None]:
        def wait() -> None:
            self.is_awaited.set()
            self.done.wait()

        return wait


async def test_nothing_is_written_before_the_device_has_computed_it(world: World) -> None:
    work = QueuedWork()
    pair = Pair(world, memory=work)
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)
    assert await asyncio.to_thread(work.is_awaited.wait, 5)
    assert pair.network.written == []

    work.done.set()
    await outgoing.finish()

    assert pair.has_arrived()


async def test_pages_may_become_ready_in_any_order_and_more_than_once(pair: Pair) -> None:
    outgoing = pair.start()
    outgoing.layer_ready(3, pages=range(2, 3))
    ship_all(outgoing, num_pages=2)
    outgoing.layer_ready(1, pages=range(1, 3))

    result = await outgoing.finish()

    assert pair.has_arrived()
    await pair.reader.commit(pair.ticket.ticket_id, Epoch(1), result.checksums)


async def test_neighbouring_pages_are_written_as_one_fragment(pair: Pair) -> None:
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)

    await outgoing.finish()

    page_bytes = pair.reader_map.layout.fields[2].unit_bytes
    sizes = [[fragment.num_bytes for fragment in batch] for batch in pair.network.written]
    assert sizes.count([2 * page_bytes, page_bytes]) == 2


async def test_batches_stay_within_their_limits(world: World) -> None:
    pair = Pair(world, ShipLimits(max_batch_items=1, max_batch_bytes=48))
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)

    await outgoing.finish()

    assert pair.has_arrived()
    assert all(len(batch) == 1 for batch in pair.network.written)
    assert max(batch[0].num_bytes for batch in pair.network.written) == 48


async def test_finish_raises_if_a_unit_is_missing(pair: Pair) -> None:
    outgoing = pair.start()
    ship_all(outgoing, num_pages=2)

    with pytest.raises(IncompleteHandoff, match="1 pages of layer 1's kv were never ready"):
        await outgoing.finish()
    await outgoing.stop("a bug")


async def test_more_pages_than_the_ticket_has_are_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="the ticket ends before page 3"):
        pair.start().layer_ready(1, pages=range(4))
