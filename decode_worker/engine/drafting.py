"""How many tokens the next step drafts for each sequence, and how many were accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from decode_worker.config import DecodeConfig
from decode_worker.engine.sequence import DecodeSequence
from segue.engine.runner import ModelRunner
from segue.engine.speculation.draft_length import DraftLength


class Verified(NamedTuple):
    """The result of one sequence's drafts in a step."""

    num_drafted: int
    num_accepted: int
    num_said: int
    """New tokens in the answer: one more than accepted, unless the answer ended earlier."""


class DraftCount:
    """Chooses the number of drafts of an engine's next step. Used on the engine's thread."""

    def __init__(self, runner: ModelRunner, config: DecodeConfig) -> None:
        self._most = config.max_drafts if runner.has_mtp else 0
        self._is_adaptive = config.adaptive_drafts
        self._length = DraftLength(self._most)
        self.reach = self._most
        """How many drafts a sequence that starts now needs slots for. Any thread may read it."""

    def choose(self, batch: Sequence[DecodeSequence]) -> int:
        """The number of drafts for each sequence of the batch, if it has room."""
        if not (self._most and batch):
            return 0
        if not self._is_adaptive:
            return self._most
        wanted = self._length.choose([s.max_drafts for s in batch])
        self.reach = self._length.reach
        return wanted

    def stepped(self, num_wanted: int, seconds: float, verified: Sequence[Verified]) -> None:
        """Learns from a step that had no prompts."""
        if self._most and verified:
            self._length.observe(
                num_wanted,
                seconds,
                drafted=[one.num_drafted for one in verified],
                accepted=[one.num_accepted for one in verified],
            )
