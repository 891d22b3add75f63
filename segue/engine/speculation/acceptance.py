"""Decisions of speculative decoding: accepted drafts, and the contents of slots. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from segue.api.types import SlotId
from segue.engine.batch import MAX_VERIFY_TOKENS
from segue.kernels.sampling.noise import uniforms


def num_accepted(draft_ids: Sequence[int], target_ids: Sequence[int]) -> int:
    """Length of the longest prefix of drafts that equals the trunk's own tokens.

    `target_ids[j]` is the trunk's token after j accepted drafts, so there is one more target than
    drafts. The first `num_accepted + 1` targets are new tokens of the sequence.
    """
    assert len(target_ids) == len(draft_ids) + 1, "a target for each draft, and one after the last"
    for j, draft_id in enumerate(draft_ids):
        if draft_id != target_ids[j]:
            return j
    return len(draft_ids)


def num_simulated(num_drafts: int, *, rate: float, seed: int, position: int) -> int:
    """The number of accepted drafts, if each is accepted with probability `rate`. The first draft
    is for `position`. The same arguments give the same result.

    Speed depends on the number of accepted drafts, not on their text. So it can be measured with
    untrained weights.
    """
    if not num_drafts:
        return 0
    numbers = uniforms(seed, range(position, position + num_drafts))
    return next((j for j, number in enumerate(numbers) if number >= rate), num_drafts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRing:
    """The slots of one running sequence, and their contents.

        slots   [ state ][ free ][ free ][ checkpoint ]      outputs(3) may use all but the last

    A decode chunk writes the state after each of its tokens to a separate slot. The number of
    accepted drafts determines which of these states becomes the sequence's. The state at the last
    page boundary stays in its slot, as a checkpoint, and the previous checkpoint's slot becomes
    free. So only indexes change, and no state is copied. For chunks of up to n tokens a ring has
    n + 1 slots: two without drafts.
    """

    slots: tuple[SlotId, ...]
    state: SlotId
    num_tokens: int
    """Tokens in the state in `state`."""
    checkpoint: SlotId | None = None
    """May be equal to `state`. Not written until a later checkpoint replaces it."""
    checkpoint_tokens: int = 0

    def __post_init__(self) -> None:
        assert self.state in self.slots, f"slot {self.state} is not one of {self.slots}"
        assert self.checkpoint is None or self.checkpoint in self.slots

    @property
    def max_chunk_tokens(self) -> int:
        """Maximum tokens of the next decode chunk; at least 1."""
        return min(MAX_VERIFY_TOKENS, len(self._writable))

    def outputs(self, num_tokens: int) -> tuple[SlotId, ...]:
        """Slots for the states after each token of the next decode chunk; never the checkpoint's.
        The current state's slot comes first: it is read before it is written."""
        assert 1 <= num_tokens <= self.max_chunk_tokens, f"no slots for {num_tokens} tokens"
        return self._writable[:num_tokens]

    def after(self, outputs: Sequence[SlotId], num_certain: int, page_tokens: int) -> SlotRing:
        """The ring after a chunk that wrote `outputs`, of whose tokens `num_certain` were
        accepted."""
        assert 1 <= num_certain <= len(outputs)
        num_tokens = self.num_tokens + num_certain
        moved = replace(self, state=outputs[num_certain - 1], num_tokens=num_tokens)
        boundary = num_tokens // page_tokens * page_tokens
        if boundary <= self.num_tokens:
            return moved
        return moved.with_checkpoint(outputs[boundary - self.num_tokens - 1], boundary)

    def with_checkpoint(self, slot: SlotId, num_tokens: int) -> SlotRing:
        """The ring with the state after `num_tokens` in `slot` as its checkpoint. A ring of one
        slot has none: the next chunk must write that slot."""
        if len(self.slots) == 1:
            return self
        return replace(self, checkpoint=slot, checkpoint_tokens=num_tokens)

    @property
    def _writable(self) -> tuple[SlotId, ...]:
        free = tuple(s for s in self.slots if s not in (self.state, self.checkpoint))
        return free if self.state == self.checkpoint else (self.state, *free)
