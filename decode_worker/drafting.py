"""What the next pass is to verify: how many tokens, and, where the host drives it, which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from decode_worker.config import DecodeConfig
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


class DraftCount:
    """How many drafts an engine's next step is to have. On the engine's thread."""

    def __init__(self, runner: ModelRunner, config: DecodeConfig) -> None:
        self._most = config.max_drafts if runner.has_mtp else 0
        self._is_adaptive = config.adaptive_drafts
        self._length = DraftLength(self._most)
        self.reach = self._most
        """For how many drafts a sequence that begins now should have slots. Any thread may read."""

    def choose(self, batch: Sequence[DecodeSequence]) -> int:
        """For each sequence of the batch, as far as it has room."""
        if not (self._most and batch):
            return 0
        if not self._is_adaptive:
            return self._most
        wanted = self._length.choose([s.max_drafts for s in batch])
        self.reach = self._length.reach
        return wanted

    def stepped(self, num_wanted: int, seconds: float, verified: Sequence[Verified]) -> None:
        """Learns from a step of nothing but answers."""
        if self._most and verified:
            self._length.observe(
                num_wanted,
                seconds,
                drafted=[one.num_drafted for one in verified],
                accepted=[one.num_accepted for one in verified],
            )


def draft(runner: ModelRunner, batch: Sequence[DecodeSequence], wanted: int) -> None:
    """Gives each sequence of the batch so many drafts, or as many as it has room for."""
    counts = {id(s): min(wanted, s.max_drafts) for s in batch}
    drafting = sorted((s for s in batch if counts[id(s)]), key=lambda s: -counts[id(s)])
    if not drafting:
        return
    drafter = runner.drafter([s.draft_start() for s in drafting])
    token_ids = [s.answer_ids[-1] for s in drafting]
    for depth in range(wanted):
        drafting = [s for s in drafting if counts[id(s)] > depth]
        if not drafting:
            break
        logits_DV = drafter.step(token_ids[: len(drafting)])
        token_ids = sample_ids(logits_DV, [s.draft_row() for s in drafting])
        for sequence, token_id in zip(drafting, token_ids, strict=True):
            sequence.drafts.append(token_id)
