"""Handoffs that fail, are stopped, fenced or refused."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kv_transfer.writing.outgoing import Outgoing, ShipLimits
from segue.api.errors import Cancelled, InvalidRequest, NotFound, StaleEpoch, TransferFailed
from segue.api.types import Epoch, SlotId
from tests.kv_transfer.pair import SOURCE_PAGES, Pair
from tests.kv_transfer.world import World, ship_all


async def test_a_failed_write_is_raised_by_finish_and_ends_the_handoff(pair: Pair) -> None:
    pair.network.fail_next()
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)

    with pytest.raises(TransferFailed, match="bytes to decode-0:1: failed on command"):
        await outgoing.finish()

    await outgoing.stop("already over")
    outgoing.layer_ready(1, pages=range(3))
    assert len(pair.network.written) == 1


async def test_a_failed_write_does_not_touch_the_next_handoff(pair: Pair) -> None:
    pair.network.fail_next()
    failing = pair.start()
    ship_all(failing, num_pages=3)
    with pytest.raises(TransferFailed):
        await failing.finish()
    pair.reader.abort(pair.ticket.ticket_id, Epoch(1), "write failed")

    pair.ticket = pair.world.reserve(pair.reader, pair.source, num_tokens=10)
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)
    await outgoing.finish()

    assert pair.has_arrived()


async def test_an_unexpected_error_ends_one_handoff_and_not_the_thread(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outgoing = pair.start()
    with monkeypatch.context() as patch:
        patch.setattr(pair.network, "move", None)
        ship_all(outgoing, num_pages=3)
        with pytest.raises(TransferFailed, match="TypeError"):
            await outgoing.finish()

    again = pair.start(pair.world.reserve(pair.reader, pair.source, num_tokens=10))
    ship_all(again, num_pages=3)
    await again.finish()
    assert "a piece could not be shipped" in caplog.text


async def test_stop_waits_for_the_write_in_flight_and_starts_no_other(pair: Pair) -> None:
    pair.network.hold()
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)
    assert await asyncio.to_thread(pair.network.wait_until_held, 5.0)

    stopping = asyncio.ensure_future(outgoing.stop("the client hung up"))
    await asyncio.wait([stopping], timeout=0.05)
    assert not stopping.done()
    pair.network.release()
    await stopping

    assert len(pair.network.written) == 1
    with pytest.raises(Cancelled, match="the client hung up"):
        await outgoing.finish()


async def test_stop_before_anything_was_ready_returns_at_once(pair: Pair) -> None:
    outgoing = pair.start()

    await outgoing.stop("first")
    await outgoing.stop("second")

    with pytest.raises(Cancelled, match="first"):
        await outgoing.finish()


async def test_a_cancelled_finish_does_not_disturb_a_later_stop(pair: Pair) -> None:
    pair.network.hold()
    outgoing = pair.start()
    ship_all(outgoing, num_pages=3)
    finishing = asyncio.ensure_future(outgoing.finish())
    await asyncio.wait([finishing], timeout=0.01)

    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    pair.network.release()

    await outgoing.stop("cancelled")


async def blocked(world: World) -> tuple[Pair, Outgoing, threading.Thread]:
    """A thread that computes faster than the network, until the first write is released."""
    pair = Pair(world, ShipLimits(max_waiting_bytes=1))
    pair.network.hold()
    outgoing = pair.start()
    computing = threading.Thread(target=ship_all, args=(outgoing, 3))
    computing.start()
    assert await asyncio.to_thread(pair.network.wait_until_held, 5.0)
    return pair, outgoing, computing


async def test_layer_ready_blocks_while_too_much_is_queued(world: World) -> None:
    pair, outgoing, computing = await blocked(world)
    computing.join(timeout=0.05)

    assert computing.is_alive()
    pair.network.release()
    await asyncio.to_thread(computing.join, 5.0)
    await outgoing.finish()

    assert pair.has_arrived()


@pytest.mark.parametrize("ending", ["stop", "fail"])
async def test_stop_and_failure_unblock_layer_ready(world: World, ending: str) -> None:
    pair, outgoing, computing = await blocked(world)

    if ending == "stop":
        outgoing.ask_to_stop("released")
    else:
        pair.network.fail_next()
        pair.network.release()
    await asyncio.to_thread(computing.join, 5.0)

    assert not computing.is_alive()
    pair.network.release()
    await outgoing.stop("over")


async def test_a_fence_stops_the_handoff_and_invalidates_its_ticket(pair: Pair) -> None:
    outgoing = pair.start()
    outgoing.layer_ready(1, pages=range(3))

    await pair.writer.fence(pair.ticket.ticket_id)

    with pytest.raises(Cancelled, match="the reader gave up"):
        await outgoing.finish()
    with pytest.raises(NotFound, match="was used or fenced"):
        pair.start()


async def test_a_fence_that_overtakes_its_ticket_is_remembered(pair: Pair) -> None:
    await pair.writer.fence(pair.ticket.ticket_id)

    with pytest.raises(NotFound, match="was used or fenced"):
        pair.start()


async def test_a_ticket_can_be_shipped_into_once(pair: Pair) -> None:
    outgoing = pair.start()
    with pytest.raises(NotFound):
        pair.start()
    ship_all(outgoing, num_pages=3)
    await outgoing.finish()

    with pytest.raises(NotFound):
        pair.start()


async def test_pages_that_do_not_match_the_ticket_are_refused(pair: Pair) -> None:
    with pytest.raises(InvalidRequest, match="has 3 pages after the first 0, the prompt has 2"):
        pair.writer.start(
            pair.ticket, pair.reader_map, source_pages=SOURCE_PAGES[:2], source_slot=SlotId(0)
        )


async def test_a_map_of_another_life_of_the_reader_is_refused(pair: Pair) -> None:
    reborn = pair.world.node("decode-0", epoch=2)

    with pytest.raises(StaleEpoch, match="epoch 1 of decode-0, which is in epoch 2"):
        pair.writer.start(
            pair.ticket, reborn.memory_map, source_pages=SOURCE_PAGES, source_slot=SlotId(0)
        )


async def test_closing_stops_handoffs_in_progress(pair: Pair) -> None:
    outgoing = pair.start()
    outgoing.layer_ready(1, pages=range(3))

    pair.writer.close()

    with pytest.raises(Cancelled, match="the worker is closing"):
        await outgoing.finish()
