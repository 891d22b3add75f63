"""Chunks of sequences, as the schedulers speak of them: what one forward pass computes of whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RUN_TOKENS = 8
"""Of one run: operators are made for few tokens after many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceChunk:
    """The tokens at positions start, start + 1, … of one sequence. Logits follow the last."""

    token_ids: Sequence[int]
    start: int
    page_ids: Sequence[int]
    """Pages of all positions from 0 to the chunk's end; more are ignored."""
    slot_in: int | None
    """Holds the state before `start`, and is only read; None begins from a zero state."""
    slot_out: int
    """Takes the state after the chunk; may be `slot_in`."""
    checkpoints: Sequence[tuple[int, int]] = ()
    """Positions inside the chunk, ascending, and the slots that take the states there."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def slots_written(self) -> list[int]:
        """In order of their positions."""
        return [*(slot for _, slot in self.checkpoints), self.slot_out]

    @property
    def positions_kept(self) -> list[int]:
        """How many tokens the states in `slots_written` contain."""
        return [*(position for position, _ in self.checkpoints), self.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A certain token of one sequence and the drafts after it. Logits and a state follow each."""

    token_ids: Sequence[int]
    """At positions start, start + 1, …; at most `MAX_RUN_TOKENS`."""
    start: int
    page_ids: Sequence[int]
    """Pages of all positions from 0 to the run's end; more are ignored."""
    slot_in: int
    """Holds the state before `start`. Only the first token's round reads it, and reads it before
    anything of the run is written, so it may be one of `slots_out`, whichever."""
    slots_out: Sequence[int]
    """Each takes the state after the token of the same index."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def slots_written(self) -> list[int]:
        return list(self.slots_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftStart:
    """From where a sequence drafts: the first token that its cache does not hold goes in next."""

    position: int
    """Of that token; at least 1."""
    page_ids: Sequence[int]
    """Pages of all positions from 0 to that of the last token that goes in; more are ignored."""
    slot: int
    """Holds the hidden state before that token. Only read."""


Chunk = SequenceChunk | Run
