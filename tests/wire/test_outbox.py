"""Queued items share a message, as far as it can hold them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from segue.internal.v1 import worker_pb2 as pb
from segue.wire.streams.outbox import Outbox

Events = Outbox[pb.TurnEvent]


def event(number: int) -> pb.TurnEvent:
    return pb.TurnEvent(call=number)


async def next_batch(batches: AsyncIterator[list[pb.TurnEvent]]) -> list[int]:
    return numbers(await asyncio.wait_for(anext(batches), timeout=5))


def numbers(batch: list[pb.TurnEvent]) -> list[int]:
    return [event.call for event in batch]


async def test_all_queued_items_are_one_batch_in_order() -> None:
    outbox = Events()
    batches = outbox.batches()

    for number in range(3):
        outbox.put(event(number))
    first = await next_batch(batches)
    outbox.put(event(3))

    assert [first, await next_batch(batches)] == [[0, 1, 2], [3]]


async def test_a_sender_waits_for_the_first_item() -> None:
    outbox = Events()
    sending = asyncio.ensure_future(next_batch(outbox.batches()))
    await asyncio.sleep(0)

    outbox.put(event(7))

    assert await sending == [7]


async def test_items_queued_before_closing_are_still_sent() -> None:
    outbox = Events()
    outbox.put(event(1))
    outbox.close()

    assert [numbers(batch) async for batch in outbox.batches()] == [[1]]


async def test_after_a_batch_the_next_one_waits_for_more_items() -> None:
    outbox: Events = Outbox(min_gap_s=0.05)
    batches = outbox.batches()
    outbox.put(event(0))
    first = await next_batch(batches)

    outbox.put(event(1))
    sending = asyncio.ensure_future(next_batch(batches))
    await asyncio.sleep(0.005)
    outbox.put(event(2))

    assert [first, await sending] == [[0], [1, 2]]


async def test_long_prompts_queued_together_do_not_exceed_the_message_limit() -> None:
    outbox: Outbox[pb.TurnCommand] = Outbox()
    prompts = [b"x" * size for size in (3 << 20, 1 << 19, 1 << 20, 9 << 20, 1, 1)]
    for number, prompt in enumerate(prompts):
        turn = pb.TurnSpec(context=prompt)
        outbox.put(pb.TurnCommand(call=number, prefill=pb.PrefillPrompt(turn=turn)))
    outbox.close()

    batches = [[command.call for command in batch] async for batch in outbox.batches()]

    assert batches == [[0, 1], [2], [3], [4, 5]]


async def test_room_waits_until_a_batch_is_taken() -> None:
    outbox = Events()
    await outbox.room()
    for number in range(1_001):
        outbox.put(event(number))

    waiting = asyncio.ensure_future(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()

    assert len(outbox.take()) == 1_001
    await asyncio.wait_for(waiting, timeout=5)


async def test_room_does_not_wait_after_closing() -> None:
    outbox = Events()
    for number in range(1_001):
        outbox.put(event(number))
    waiting = asyncio.ensure_future(outbox.room())
    await asyncio.sleep(0)

    outbox.close()

    await asyncio.wait_for(waiting, timeout=5)
