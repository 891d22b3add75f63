"""How many tokens the next step drafts for each sequence, and how many were accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from decode_worker.config import DecodeConfig
from decode_worker.engine.sequence import DecodeSequence
from segue.engine.runner import ModelRunner
from segue.engine.speculation.draft_length import DraftLength


class Verified(NamedTuple):
    """The result of one sequence's drafts in a step."""

    num_drafted: int
    num_accepted: int
    num_new: int
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


Item = TypeVar("Item")


def next_batch(
    running: Sequence[Item],
    max_batch: int,
    *,
    num_prompt_tokens: Callable[[Item], int],
    max_prompt_tokens: int,
) -> tuple[list[Item], list[Item]]:
    """The batch, and the order in which all wait for the step after it.

    All sequences while they fit, otherwise those that waited longest, so that none starves. Prompts
    make the step longer for all in it: they share `max_prompt_tokens`, and the first always goes.
    """
    batch: list[Item] = []
    waiting: list[Item] = []
    prompt_tokens = 0
    for item in running:
        size = num_prompt_tokens(item)
        has_room = not size or not prompt_tokens or prompt_tokens + size <= max_prompt_tokens
        if len(batch) < max_batch and has_room:
            batch.append(item)
            prompt_tokens += size
        else:
            waiting.append(item)
    return batch, [*waiting, *batch]
