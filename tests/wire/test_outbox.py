"""What waits goes together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from segue.wire.outbox import Outbox


async def next_batch(batches: AsyncIterator[list[int]]) -> list[int]:
    return await asyncio.wait_for(anext(batches), timeout=5)


async def test_all_that_waits_is_one_batch_in_order() -> None:
    outbox: Outbox[int] = Outbox()
    batches = outbox.batches()

    for item in range(3):
        outbox.put(item)
    first = await next_batch(batches)
    outbox.put(3)

    assert [first, await next_batch(batches)] == [[0, 1, 2], [3]]


async def test_a_sender_waits_for_the_first_item() -> None:
    outbox: Outbox[int] = Outbox()
    sending = asyncio.ensure_future(next_batch(outbox.batches()))
    await asyncio.sleep(0)

    outbox.put(7)

    assert await sending == [7]


async def test_what_waited_when_it_was_closed_is_still_sent() -> None:
    outbox: Outbox[int] = Outbox()
    outbox.put(1)
    outbox.close()

    assert [batch async for batch in outbox.batches()] == [[1]]
