"""One turn being answered, as the engine sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from segue.api.prompt import Prompt
from segue.api.turn import ShipReport, TurnSpec
from segue.api.types import PageId, SampledToken, SlotId
from segue.engine.answer import AnswerState
from segue.engine.batch import Chunk, DecodeChunk, DraftStart, PrefillChunk
from segue.engine.sampler import SamplerRow, SequenceSampler
from segue.engine.speculation.acceptance import SlotRing
from segue.grammar.constraint import Constraint
from segue.kernels.sampling import SamplingFeatures


@dataclass(slots=True, kw_only=True, eq=False)
class DecodeSequence:
    """The cache holds all of its tokens except the last of `answer_ids`, or fewer while a suffix of
    its context is still to be computed.
    """

    turn: TurnSpec
    pages: Sequence[PageId]
    """Shared pages come first and are read-only."""
    resident_tokens: int
    """Tokens in shared pages, which were here before the turn."""
    ring: SlotRing
    """Its states. Until the prompt is complete, the current state is in `resume_slot`."""
    answer: AnswerState
    sampler: SequenceSampler
    report: ShipReport
    constraint: Constraint | None = None
    """Restricts the next token."""
    first_token: SampledToken | None = None
    """Sampled by the prefill worker. None if the rest of the prompt is computed here."""
    resume_slot: SlotId | None = None
    """Shared: the state after `num_cached` prompt tokens, until the rest is computed."""
    prompt_states: Mapping[int, SlotId] = field(default_factory=dict)
    """Slots outside the ring, for states of the prompt suffix to be kept: position to slot."""
    answer_ids: list[int] = field(default_factory=list)
    """The whole answer, including the tokens that are part of the context."""
    drafts: list[int] = field(default_factory=list)
    """Drafted tokens for the next pass."""
    masks: list[np.ndarray | None] = field(default_factory=list)
    """The masks of the next pass's rows, as far as they are known."""
    is_masked_until_read: bool = False
    """The device has masked its steps since they were resumed."""
    in_flight: deque[int] = field(default_factory=deque)
    """For each step in flight with this sequence, the most tokens that it may get."""
    num_drafted: int = 0
    num_accepted: int = 0
    admitted_at: float = 0.0
    first_at: float = 0.0

    @property
    def num_cached(self) -> int:
        return self.ring.num_tokens

    @property
    def cached_tokens(self) -> Prompt:
        """The tokens whose K and V are in the pages."""
        context = self.turn.context
        return (context + self.answer_ids[self.turn.num_answered :])[: self.num_cached]

    @property
    def slots(self) -> tuple[SlotId, ...]:
        """All slots that it owns."""
        return (*self.ring.slots, *self.prompt_states.values())

    @property
    def states_kept(self) -> dict[int, SlotId]:
        """Final states at page boundaries: position to slot."""
        states = {at: slot for at, slot in self.prompt_states.items() if at <= self.num_cached}
        if self.ring.checkpoint is not None:
            states.setdefault(self.ring.checkpoint_tokens, self.ring.checkpoint)
        return states

    @property
    def is_in_prompt(self) -> bool:
        return self.num_cached < len(self.turn.context)

    @property
    def num_prompt_left(self) -> int:
        return max(len(self.turn.context) - self.num_cached, 0)

    @property
    def may_go_on(self) -> bool:
        """Whether another step can be useful: each step in flight gives at least one token.

        A step ahead cannot have a mask that depends on the steps in flight.
        """
        if self.in_flight and self.constraint is not None:
            has_changed = self.constraint.is_masking != self.is_masked_until_read
            if has_changed or self.constraint.follows_grammar:
                return False
        return len(self.answer_ids) + len(self.in_flight) < self.turn.stop.max_tokens

    @property
    def max_position(self) -> int:
        """The highest position that the last token can have after the steps in flight: they may
        accept all drafts, up to the answer's limit."""
        return min(self.num_cached + sum(self.in_flight), self.turn.max_context - 1)

    @property
    def max_drafts(self) -> int:
        """The most drafts that fit into the answer and have slots for their states."""
        if self.is_in_prompt:
            return 0
        num_left = self.turn.stop.max_tokens - len(self.answer_ids)
        return max(min(self.ring.max_chunk_tokens, num_left) - 1, 0)

    def draft_start(self) -> DraftStart:
        return DraftStart(position=self.num_cached, page_ids=self.pages, slot=self.ring.state)

    def draft_row(self) -> SamplerRow:
        """The sampler row of the next draft."""
        return self._row(len(self.drafts))

    @property
    def needs(self) -> SamplingFeatures:
        """The sampling features of its next token."""
        if self.constraint is None or not self.constraint.is_masking:
            return self.sampler.needs
        return self.sampler.needs | SamplingFeatures(masks=True)

    def find_mask(self) -> None:
        """Finds the mask of the row after the last draft, or of the answer's first row."""
        masks = self.constraint is not None and self.constraint.is_masking
        self.masks.append(self.constraint.mask() if self.constraint and masks else None)

    def add_draft(self, token_id: int) -> None:
        self.drafts.append(token_id)
        if self.constraint is not None:
            self.constraint.take([token_id])

    def take_drafts_back(self) -> None:
        """Called after the pass: the answer's tokens are taken once they are known."""
        if self.constraint is not None:
            self.constraint.take_back(len(self.drafts))
            self.masks = []

    def next_chunk(self, page_tokens: int) -> Chunk:
        """The rest of the prompt, or the answer's last token and the drafts after it."""
        if not self.is_in_prompt:
            return DecodeChunk(
                token_ids=(self.answer_ids[-1], *self.drafts),
                start=self.num_cached,
                page_ids=self.pages,
                slot_in=self.ring.state,
                slots_out=self.ring.outputs(len(self.drafts) + 1),
            )
        return PrefillChunk(
            token_ids=self.turn.context.tokens[self.num_cached :],
            start=self.num_cached,
            page_ids=self.pages,
            slot_in=self.resume_slot,
            slot_out=self.ring.state,
            checkpoints=sorted(
                {**self.prompt_states, **self._ring_checkpoint(page_tokens)}.items()
            ),
        )

    def next_rows(self) -> list[SamplerRow]:
        """The sampler rows for the logits of `next_chunk`."""
        if self.is_in_prompt:
            position = len(self.turn.context)
            return [SamplerRow(self.sampler, position=position, mask=self._mask(0))]
        return [self._row(num_before) for num_before in range(len(self.drafts) + 1)]

    def prompt_computed(self, page_tokens: int) -> None:
        of_ring = self._ring_checkpoint(page_tokens)
        self.ring = replace(self.ring, num_tokens=len(self.turn.context))
        for position, slot in of_ring.items():
            self.ring = self.ring.with_checkpoint(slot, position)
        self.keep_checkpoint(page_tokens)

    def stepped(self, num_drafted: int, num_moved: int, num_certain: int, page_tokens: int) -> None:
        """A step computed `num_drafted` drafts after the last token, and `num_certain` of its
        tokens became part of the answer. Its state advanced by `num_moved` tokens: more, if the
        device did not know that the answer ended among them.
        """
        before, outputs = self.ring, self.ring.outputs(num_drafted + 1)
        self.ring = before.after(outputs, num_certain, page_tokens)
        if num_moved > num_certain:
            moved = before.after(outputs, num_moved, page_tokens)
            if moved.checkpoint != self.ring.checkpoint:
                # The device may reuse the checkpoint's slot: a step in flight may write it.
                self.ring = replace(self.ring, checkpoint=None, checkpoint_tokens=0)
        self.num_drafted += num_drafted
        self.num_accepted += num_certain - 1

    def keep_checkpoint(self, page_tokens: int) -> None:
        """At a page boundary, keeps the state in its slot as the checkpoint."""
        if self.num_cached % page_tokens == 0:
            self.ring = self.ring.with_checkpoint(self.ring.state, self.num_cached)

    def _row(self, num_before: int) -> SamplerRow:
        return SamplerRow(
            self.sampler,
            position=self.num_cached + 1 + num_before,
            pending=tuple(self.drafts[:num_before]),
            mask=self._mask(num_before),
        )

    def _mask(self, num_before: int) -> np.ndarray | None:
        return None if self.constraint is None else self.masks[num_before]

    def _ring_checkpoint(self, page_tokens: int) -> dict[int, SlotId]:
        """A checkpoint at the last page boundary in the rest of the prompt, if there is one without
        another slot: position to slot."""
        last = (len(self.turn.context) - 1) // page_tokens * page_tokens
        if len(self.ring.slots) == 1 or last <= self.num_cached or last in self.prompt_states:
            return {}
        other = next(slot for slot in self.ring.slots if slot != self.ring.state)
        return {last: other}
