"""Rings as tensors do what rings one by one do."""

from __future__ import annotations

import random

import torch

from segue.api.types import SlotId
from segue.engine.speculation.acceptance import SlotRing
from segue.kernels import NO_SLOT
from segue.kernels.decode_step.rings import Rings, after, writable

MAX_SLOTS = 6
PAGE_TOKENS = 4


def ring_of(source: random.Random) -> SlotRing:
    slots = tuple(SlotId(s) for s in source.sample(range(100), source.randrange(1, MAX_SLOTS + 1)))
    ring = SlotRing(slots=slots, state=source.choice(slots), num_tokens=source.randrange(1, 40))
    return ring.with_checkpoint(source.choice(slots), 0) if source.random() < 0.7 else ring


def rings_of(rings: list[SlotRing]) -> Rings:
    slots = [[*ring.slots, *[NO_SLOT] * (MAX_SLOTS - len(ring.slots))] for ring in rings]
    kept = [NO_SLOT if ring.checkpoint is None else ring.checkpoint for ring in rings]
    return Rings(
        torch.tensor(slots), torch.tensor([ring.state for ring in rings]), torch.tensor(kept)
    )


def test_decode_chunks_write_the_same_slots_and_leave_the_same_rings() -> None:
    source = random.Random(3)
    rings = [ring_of(source) for _ in range(300)]

    for _ in range(5):
        tensors = rings_of(rings)
        slots_BS, num_B = writable(tensors)
        assert num_B.tolist() == [ring.max_chunk_tokens for ring in rings]
        num_new = [source.randrange(ring.max_chunk_tokens + 1) for ring in rings]
        state_B, checkpoint_B = after(
            tensors,
            slots_BS,
            positions_B=torch.tensor([ring.num_tokens for ring in rings]),
            num_new_B=torch.tensor(num_new),
            page_tokens=PAGE_TOKENS,
        )
        for i, ring in enumerate(rings):
            outputs = ring.outputs(ring.max_chunk_tokens)
            assert tuple(slots_BS[i, : ring.max_chunk_tokens].tolist()) == outputs
            if num_new[i]:
                rings[i] = ring.after(outputs, num_new[i], PAGE_TOKENS)
        assert torch.equal(state_B, rings_of(rings).state_B)
        assert torch.equal(checkpoint_B, rings_of(rings).checkpoint_B)
