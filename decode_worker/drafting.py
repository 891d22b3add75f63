"""What the next pass is to verify: how many tokens, and which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from decode_worker.sequence import DecodeSequence
from segue.engine.draft_length import DraftLength
from segue.engine.runner import ModelRunner
from segue.engine.sampler import sample_ids


class Verified(NamedTuple):
    """What became of one sequence's drafts in a step."""

    num_drafted: int
    num_accepted: int
    num_said: int
    """New tokens of the answer: one more than accepted, unless it ended before."""


class Drafting:
    """Of one engine, on its thread."""

    def __init__(self, runner: ModelRunner, *, max_drafts: int, is_adaptive: bool) -> None:
        """Not adaptive: always as many as can be."""
        self._runner = runner
        self._max_drafts = max_drafts if runner.has_mtp else 0
        self._is_adaptive = is_adaptive
        self._length = DraftLength(self._max_drafts)

    @property
    def reach(self) -> int:
        """For how many drafts a sequence that begins now should have slots. Any thread may ask."""
        return self._length.reach if self._is_adaptive else self._max_drafts

    def draft(self, batch: Sequence[DecodeSequence]) -> int:
        """Gives each sequence of the batch its drafts. Returns how many were wanted of each."""
        if not (self._max_drafts and batch):
            return 0
        wanted = self._max_drafts
        if self._is_adaptive:
            wanted = self._length.choose([s.max_drafts for s in batch])
        counts = {id(s): min(wanted, s.max_drafts) for s in batch}
        drafting = sorted((s for s in batch if counts[id(s)]), key=lambda s: -counts[id(s)])
        if not drafting:
            return wanted
        drafter = self._runner.drafter([s.draft_start() for s in drafting])
        token_ids = [s.answer_ids[-1] for s in drafting]
        for depth in range(wanted):
            drafting = [s for s in drafting if counts[id(s)] > depth]
            if not drafting:
                break
            logits_DV = drafter.step(token_ids[: len(drafting)])
            token_ids = sample_ids(logits_DV, [s.draft_row() for s in drafting])
            for sequence, token_id in zip(drafting, token_ids, strict=True):
                sequence.drafts.append(token_id)
        return wanted

    def stepped(self, num_wanted: int, seconds: float, verified: Sequence[Verified]) -> None:
        """Learns from a step of nothing but answers."""
        if self._max_drafts and verified:
            self._length.observe(
                num_wanted,
                seconds,
                drafted=[one.num_drafted for one in verified],
                accepted=[one.num_accepted for one in verified],
            )
