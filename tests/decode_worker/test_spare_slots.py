"""Slots besides a sequence's state: for its checkpoint, and for the states after drafts."""

from __future__ import annotations

import pytest

from decode_worker.config import DecodeConfig
from decode_worker.memory.residency import Residency
from segue.api.prompt import Prompt
from segue.api.types import SessionId, SlotId, TurnId
from segue.cache.memory import Memory
from segue.cache.unit_pool import UnitState
from segue.engine.speculation.acceptance import SlotRing
from tests.cache.prefix_world import PAGE_TOKENS
from tests.cache.prefix_world import prompt as prompt_of
from tests.cache.tiered_world import TieredWorld

NUM_SLOTS = 12


class Desk(TieredWorld):
    def __init__(self, *, residency: bool = True) -> None:
        super().__init__(num_slots=NUM_SLOTS)
        memory = Memory(pages=self.pages, slots=self.slots, cache=self.cache)
        config = DecodeConfig(residency=residency)
        self.residency = Residency(memory, self.tier, config, lambda: self.now)

    def spare(self, num_drafts: int) -> tuple[SlotId, ...]:
        return self.residency.spare_slots(num_drafts, TurnId("turn"))

    async def close(self, *taken: SlotId) -> None:
        self.slots.give_back(taken, UnitState.WORKING)
        self.residency.close()
        await self.tier.close()
        self.check()


@pytest.mark.parametrize("residency", [True, False])
@pytest.mark.parametrize("num_drafts", [1, 3, 7])
async def test_a_sequence_has_slots_for_its_drafts_during_its_whole_answer(
    residency: bool, num_drafts: int
) -> None:
    desk = Desk(residency=residency)
    (state,) = desk.slots.take(1, UnitState.WORKING)
    spare = desk.spare(num_drafts)
    ring = SlotRing(slots=(state, *spare), state=state, num_tokens=0)

    for _ in range(3 * PAGE_TOKENS):
        assert ring.max_chunk_tokens >= num_drafts + 1
        ring = ring.after(ring.outputs(1), 1, PAGE_TOKENS)

    assert ring.checkpoint is not None
    await desk.close(state, *spare)


@pytest.mark.parametrize("residency", [True, False])
async def test_without_drafts_there_is_a_slot_for_a_kept_checkpoint(
    residency: bool,
) -> None:
    desk = Desk(residency=residency)

    spare = desk.spare(0)

    assert len(spare) == residency
    await desk.close(*spare)


async def test_no_lease_is_revoked_for_drafts() -> None:
    desk = Desk()
    tokens = prompt_of(1, 40)
    hold = desk.run(tokens[:16], 4, 8, 12, 16)
    desk.cache.leases.grant(SessionId("a"), hold.node, 100.0)
    desk.cache.release(hold)
    others = desk.slots.take(NUM_SLOTS - 4 - 2, UnitState.WORKING)

    spare = desk.spare(7)

    assert desk.cache.leases.get(SessionId("a")) is not None
    assert desk.cache.match(Prompt(tokens)).checkpoint is not None
    assert len(spare) >= 2
    await desk.close(*spare, *others)
