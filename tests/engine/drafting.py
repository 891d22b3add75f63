"""Sequences that draft and verify, driven by hand as a decode loop would drive them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from segue.api.types import Sampling, SlotId
from segue.engine.batch import DecodeChunk, DraftStart, PrefillChunk
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SamplerRow, SequenceSampler, sample_ids
from segue.engine.speculation.acceptance import SlotRing, num_accepted


@dataclass(slots=True)
class DraftingSequence:
    """Its cache holds every token but the last."""

    runner: ModelRunner
    pages: Sequence[int]
    slots: Sequence[int]
    prompt: Sequence[int]
    params: Sampling = field(default_factory=Sampling)
    tokens: list[int] = field(init=False, default_factory=list)
    ring: SlotRing = field(init=False)
    sampler: SequenceSampler = field(init=False)

    def prefill(self, chunk_tokens: int = 64) -> Tensor:
        """The whole prompt in chunks, and the first token of the answer. Returns its logits."""
        self._start()
        slot = self.slots[0]
        for start in range(0, len(self.prompt), chunk_tokens):
            logits = self.runner.forward([self.chunk(start, start + chunk_tokens, slot)])
        self.ring = SlotRing(
            slots=tuple(SlotId(s) for s in self.slots),
            state=SlotId(slot),
            num_tokens=len(self.prompt),
        )
        self.add(sample_ids(logits, [self.row(())]))
        return logits

    def fork(self, slot: int) -> None:
        """Instead of `prefill`: the prompt without its last token is in the cache already, its
        state in `slot`, which others read too. So are its pages, all full; `slots` are this one's
        own."""
        self._start()
        self.ring = SlotRing(
            slots=tuple(SlotId(s) for s in (slot, *self.slots)),
            state=SlotId(slot),
            num_tokens=len(self.prompt) - 1,
        ).with_checkpoint(SlotId(slot), len(self.prompt) - 1)

    def _start(self) -> None:
        vocab_size = self.runner.config.vocab_size
        self.sampler = SequenceSampler(self.params, vocab_size=vocab_size, prompt_ids=self.prompt)
        self.tokens = list(self.prompt)

    def chunk(self, start: int, end: int, slot: int) -> PrefillChunk:
        return PrefillChunk(
            token_ids=self.prompt[start:end],
            start=start,
            page_ids=self.pages,
            slot_in=slot if start else None,
            slot_out=slot,
        )

    @property
    def num_answered(self) -> int:
        return len(self.tokens) - len(self.prompt)

    def draft_start(self) -> DraftStart:
        return DraftStart(position=self.ring.num_tokens, page_ids=self.pages, slot=self.ring.state)

    def decode_chunk(self, drafts: Sequence[int]) -> DecodeChunk:
        """Computes the last token and these drafts."""
        return DecodeChunk(
            token_ids=(self.tokens[-1], *drafts),
            start=self.ring.num_tokens,
            page_ids=self.pages,
            slot_in=self.ring.state,
            slots_out=self.ring.outputs(len(drafts) + 1),
        )

    def row(self, pending: Sequence[int]) -> SamplerRow:
        return SamplerRow(self.sampler, len(self.tokens) + len(pending), tuple(pending))

    def verified(self, drafts: Sequence[int], targets: Sequence[int]) -> int:
        """Applies the result of a chunk. Returns the number of accepted drafts."""
        accepted = num_accepted(drafts, targets)
        page_tokens = self.runner.layout.page_tokens
        self.ring = self.ring.after(self.ring.outputs(len(targets)), accepted + 1, page_tokens)
        self.add(targets[: accepted + 1])
        return accepted

    def add(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self.tokens.append(token_id)
            self.sampler.observe(token_id)


def draft(
    runner: ModelRunner, sequences: Sequence[DraftingSequence], num_drafts: Sequence[int]
) -> list[list[int]]:
    """`num_drafts[i]` drafts of sequence i, in descending order of their number."""
    drafts: list[list[int]] = [[] for _ in sequences]
    if not max(num_drafts):
        return drafts
    drafter = runner.drafter([s.draft_start() for s in sequences])
    for j in range(max(num_drafts)):
        active = [i for i, num in enumerate(num_drafts) if num > j]
        inputs = [drafts[i][-1] if j else sequences[i].tokens[-1] for i in active]
        rows = [sequences[i].row(drafts[i]) for i in active]
        for i, token_id in zip(active, sample_ids(drafter.step(inputs), rows), strict=True):
            drafts[i].append(token_id)
    return drafts


def target_ids(
    runner: ModelRunner, sequences: Sequence[DraftingSequence], drafts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """One pass over all: the trunk's own token after each sequence's last and after each draft."""
    logits = runner.forward([s.decode_chunk(d) for s, d in zip(sequences, drafts, strict=True)])
    rows = [s.row(d[:j]) for s, d in zip(sequences, drafts, strict=True) for j in range(len(d) + 1)]
    targets = iter(sample_ids(logits, rows))
    return [list(islice(targets, len(some) + 1)) for some in drafts]


def verify(
    runner: ModelRunner, sequences: Sequence[DraftingSequence], drafts: Sequence[Sequence[int]]
) -> list[int]:
    """One pass over all. Returns the number of accepted drafts of each."""
    targets = target_ids(runner, sequences, drafts)
    return [s.verified(d, t) for s, d, t in zip(sequences, drafts, targets, strict=True)]
