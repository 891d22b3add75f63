"""Handoffs between workers of different numbers of ranks: every rank gets its part, verified."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import torch

from kv_transfer.ranks.leading import Sending
from kv_transfer.ticket import Ticket
from kv_transfer.transport.loopback import LoopbackNetwork
from segue.api.errors import NotFound, TransferFailed
from segue.api.types import Epoch, PageId, SlotId, TurnId
from segue.cache.layout import Unit
from segue.cache.tensors import CacheTensors
from tests.kv_transfer.rank_world import (
    LAYOUT,
    RankedWorker,
    new_tensors,
    part_of,
)

COUNTS = [1, 2, 4]
PAIRS = list(itertools.product(COUNTS, repeat=2))
NUM_TOKENS = 10
SOURCE_PAGES = (PageId(7), PageId(2), PageId(3))
SLOT = SlotId(1)


def random_units() -> CacheTensors:
    torch.manual_seed(0)
    whole = new_tensors(LAYOUT)
    for _, tensor in whole.fields():
        tensor.copy_(torch.randn(tensor.shape))
    return whole


class Handoff:
    def __init__(self, sources: int, targets: int) -> None:
        self.network = LoopbackNetwork()
        self.source = RankedWorker(self.network, "prefill-0", sources)
        self.target = RankedWorker(self.network, "decode-0", targets)
        self.whole = random_units()
        self.source.hold(self.whole)
        self.reader = self.target.reader()
        self.reader.met(self.source.memory_map)
        self.reservation = self.reader.reserve(
            TurnId("t"),
            num_prompt_tokens=NUM_TOKENS,
            extra_tokens=0,
            writer=self.source.identity,
            lifetime_s=30.0,
        )

    @property
    def ticket(self) -> Ticket:
        return self.reservation.ticket

    def start(self) -> Sending:
        return self.source.writer.start(
            self.ticket, self.target.memory_map, source_pages=SOURCE_PAGES, source_slot=SLOT
        )

    async def ship(self) -> None:
        sending = self.start()
        sending.all_ready(len(SOURCE_PAGES))
        shipped = await sending.finish()
        await self.reader.commit(self.ticket.ticket_id, Epoch(1), shipped.checksums)

    def close(self) -> None:
        self.network.release()
        for worker in (self.source, self.target):
            worker.writer.close()
            worker.pools.pages.check_invariants()
            worker.pools.slots.check_invariants()


@pytest.mark.parametrize(("sources", "targets"), PAIRS)
async def test_each_rank_gets_its_part_of_every_unit(sources: int, targets: int) -> None:
    handoff = Handoff(sources, targets)

    await handoff.ship()

    arrival = await handoff.reservation.arrived()
    for rank, tensors in zip(handoff.target.ranks, handoff.target.tensors, strict=True):
        for index, (field, arrived) in enumerate(tensors.fields()):
            is_page = field.unit is Unit.PAGE
            sent = handoff.whole.of(field.group, field.layer)
            sent = sent[list(SOURCE_PAGES) if is_page else [SLOT]]
            got = arrived[list(arrival.pages) if is_page else [arrival.slot]]
            expected = part_of(sent, LAYOUT.fields[index], rank)
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got.flatten(1).float(), expected.float(), rtol=0, atol=0)
    handoff.close()


@pytest.mark.parametrize(("sources", "targets"), [(2, 1), (1, 4), (4, 2), (2, 2)])
async def test_a_byte_that_arrives_wrong_on_any_rank_fails_the_commit(
    sources: int, targets: int
) -> None:
    handoff = Handoff(sources, targets)
    sending = handoff.start()
    sending.all_ready(len(SOURCE_PAGES))
    shipped = await sending.finish()
    # The last rank's, of the last page.
    kv = handoff.target.tensors[-1].of("kv", 2).view(torch.uint8)
    kv[handoff.ticket.page_ids[-1], -1, -1, -1, -1] += 1

    with pytest.raises(TransferFailed, match="kv"):
        await handoff.reader.commit(handoff.ticket.ticket_id, Epoch(1), shipped.checksums)
    handoff.close()


async def test_a_rank_whose_write_fails_fails_the_handoff() -> None:
    handoff = Handoff(2, 2)
    sending = handoff.start()
    handoff.network.disconnect("decode-0/1")
    sending.all_ready(len(SOURCE_PAGES))

    with pytest.raises(TransferFailed, match="decode-0/1"):
        await sending.finish()
    await sending.stop("it failed")
    handoff.close()


async def test_a_fence_returns_when_no_rank_writes() -> None:
    handoff = Handoff(2, 1)
    handoff.network.hold()
    sending = handoff.start()
    sending.all_ready(len(SOURCE_PAGES))
    assert await asyncio.to_thread(handoff.network.wait_until_held, 5.0)

    fenced = asyncio.ensure_future(handoff.source.writer.fence(handoff.ticket.ticket_id))
    await asyncio.sleep(0)
    assert not fenced.done()
    handoff.network.release()
    await asyncio.wait_for(fenced, 5.0)

    with pytest.raises(NotFound, match="used or fenced"):
        handoff.start()
    handoff.close()
