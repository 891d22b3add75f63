"""Drafting and verifying, the decisions: what is accepted, and which slot holds what. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from segue.api.types import SlotId
from segue.engine.batch import MAX_RUN_TOKENS
from segue.kernels.sampling.noise import uniform


def num_accepted(draft_ids: Sequence[int], target_ids: Sequence[int]) -> int:
    """How many drafts, from the first on, are the tokens that the trunk itself gives there.

    `target_ids[j]` is the trunk's token after j accepted drafts, one more than there are drafts. So
    the first `num_accepted + 1` targets are new tokens of the sequence.
    """
    assert len(target_ids) == len(draft_ids) + 1, "a target for each draft, and one after the last"
    for j, draft_id in enumerate(draft_ids):
        if draft_id != target_ids[j]:
            return j
    return len(draft_ids)


def num_simulated(num_drafts: int, *, rate: float, seed: int, position: int) -> int:
    """How many drafts, from the first on, which is for `position`, a model would accept that agrees
    with each of them with probability `rate`. Who asks again gets the same.

    Speed depends on which drafts are accepted, not on what they say; so it can be studied with
    weights that were never trained, as long as nobody reads the text.
    """
    for j in range(num_drafts):
        if uniform(seed, position + j) >= rate:
            return j
    return num_drafts


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRing:
    """The slots of one running sequence, and which of them hold what.

        slots   [ state ][ free ][ free ][ checkpoint ]      outputs(3) may take all but the last

    A run leaves a state after each of its tokens in a slot of its own; what is accepted decides
    which of them is the sequence's state from then on. The state at the last page boundary stays
    where it was written, as a checkpoint, and the slot of the one before it is free again. So
    indexes move, and no state is copied. For runs of up to n tokens a ring has n + 1 slots: two
    where nothing is drafted.
    """

    slots: tuple[SlotId, ...]
    state: SlotId
    num_tokens: int
    """That the state in `state` contains."""
    checkpoint: SlotId | None = None
    """May be `state` itself. Never written, until a later one replaces it."""
    checkpoint_tokens: int = 0

    def __post_init__(self) -> None:
        assert self.state in self.slots, f"slot {self.state} is not one of {self.slots}"
        assert self.checkpoint is None or self.checkpoint in self.slots

    @property
    def max_run(self) -> int:
        """How many tokens the next run may have; at least 1."""
        return min(MAX_RUN_TOKENS, len(self._writable))

    def outputs(self, num_tokens: int) -> tuple[SlotId, ...]:
        """A slot for the state after each token of the next run. Never the checkpoint's; the
        current state's first, since a run reads it before it writes."""
        assert 1 <= num_tokens <= self.max_run, f"no slots for a run of {num_tokens} tokens"
        return self._writable[:num_tokens]

    def after(self, outputs: Sequence[SlotId], num_certain: int, page_tokens: int) -> SlotRing:
        """After a run that wrote `outputs`, the first `num_certain` of whose tokens stand."""
        assert 1 <= num_certain <= len(outputs)
        num_tokens = self.num_tokens + num_certain
        moved = replace(self, state=outputs[num_certain - 1], num_tokens=num_tokens)
        boundary = num_tokens // page_tokens * page_tokens
        if boundary <= self.num_tokens:
            return moved
        return moved.with_checkpoint(outputs[boundary - self.num_tokens - 1], boundary)

    def with_checkpoint(self, slot: SlotId, num_tokens: int) -> SlotRing:
        """`slot` holds the state after `num_tokens`, which stays. A ring of one slot keeps none:
        the next run has to write it."""
        if len(self.slots) == 1:
            return self
        return replace(self, checkpoint=slot, checkpoint_tokens=num_tokens)

    @property
    def _writable(self) -> tuple[SlotId, ...]:
        free = tuple(s for s in self.slots if s not in (self.state, self.checkpoint))
        return free if self.state == self.checkpoint else (self.state, *free)
