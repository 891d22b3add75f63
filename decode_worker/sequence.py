"""One turn being answered, as the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from segue.engine.answer import Answer
from segue.engine.batch import SequenceChunk
from segue.engine.sampler import SamplerRow, SequenceSampler
from segue.types import PageId, SampledToken, ShipReport, SlotId, TurnSpec


@dataclass(slots=True, kw_only=True)
class DecodeSequence:
    """Its cache holds every token but the last of `answer_ids`; or less, while there is a rest of
    its prompt to compute.

    Its state alternates between two slots: what stands in one when a page is full stays there as
    a checkpoint, and the steps after it write the other. So no state is ever copied.
    """

    turn: TurnSpec
    pages: Sequence[PageId]
    """The shared ones first, which are only read."""
    resident_tokens: int
    """In shared pages: they were here before the turn."""
    state_slot: SlotId
    """Holds the state after `num_cached` tokens, or will after the prompt."""
    other_slot: SlotId | None
    """None where there was no room for a second one: then no checkpoint is kept."""
    answer: Answer
    sampler: SequenceSampler
    report: ShipReport
    num_cached: int
    first_token: SampledToken | None = None
    """Drawn by the prefill worker; None when the rest of the prompt is computed here."""
    resume_slot: SlotId | None = None
    """Shared: the state after `num_cached` tokens of the prompt, until its rest is computed."""
    answer_ids: list[int] = field(default_factory=list)
    checkpoint_tokens: int = 0
    """The prefix whose state stands in `checkpoint_slot`; 0 when none does."""
    checkpoint_slot: SlotId | None = None
    admitted_at: float = 0.0
    first_at: float = 0.0

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """Those whose K and V are in the pages."""
        prompt = self.turn.prompt
        return (*prompt, *self.answer_ids)[: self.num_cached]

    @property
    def is_in_prompt(self) -> bool:
        return self.num_cached < len(self.turn.prompt)

    @property
    def num_pending(self) -> int:
        """Tokens that the next pass computes."""
        return len(self.turn.prompt) - self.num_cached if self.is_in_prompt else 1

    def next_chunk(self, page_tokens: int) -> SequenceChunk:
        """The rest of the prompt, or the last token of the answer."""
        if not self.is_in_prompt:
            return SequenceChunk(
                token_ids=(self.answer_ids[-1],),
                start=self.num_cached,
                page_ids=self.pages,
                slot_in=self.state_slot,
                slot_out=self._slot_out,
            )
        return SequenceChunk(
            token_ids=self.turn.prompt[self.num_cached :],
            start=self.num_cached,
            page_ids=self.pages,
            slot_in=self.resume_slot,
            slot_out=self.state_slot,
            checkpoints=self._prompt_checkpoints(page_tokens),
        )

    def next_row(self) -> SamplerRow:
        """The cache ends before the tokens that go in now; the drawn one comes after them."""
        return SamplerRow(self.sampler, position=self.num_cached + self.num_pending)

    def advance(self, page_tokens: int) -> None:
        """`next_chunk` was computed."""
        if self.is_in_prompt:
            for position, slot in self._prompt_checkpoints(page_tokens):
                self.checkpoint_tokens, self.checkpoint_slot = position, slot
            self.num_cached = len(self.turn.prompt)
        else:
            self._turn_to(self._slot_out)
            self.num_cached += 1
        self.keep_checkpoint(page_tokens)

    def keep_checkpoint(self, page_tokens: int) -> None:
        """At a page boundary, what stands in the working slot stays there."""
        if self.num_cached % page_tokens == 0 and self.other_slot is not None:
            self.checkpoint_tokens, self.checkpoint_slot = self.num_cached, self.state_slot

    @property
    def _slot_out(self) -> SlotId:
        """Where the next step writes: not over the checkpoint."""
        if self.state_slot == self.checkpoint_slot and self.other_slot is not None:
            return self.other_slot
        return self.state_slot

    def _prompt_checkpoints(self, page_tokens: int) -> list[tuple[int, SlotId]]:
        """At the last page boundary inside what is left of the prompt, if there is one."""
        last = (len(self.turn.prompt) - 1) // page_tokens * page_tokens
        if self.other_slot is None or last <= self.num_cached:
            return []
        return [(last, self.other_slot)]

    def _turn_to(self, slot: SlotId) -> None:
        if slot != self.state_slot:
            self.state_slot, self.other_slot = slot, self.state_slot
