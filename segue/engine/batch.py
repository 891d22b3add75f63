"""Chunks of sequences: the tokens of a forward pass, as scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_VERIFY_TOKENS = 8
"""Maximum tokens of a decode chunk. Its operators are optimised for few tokens after a long
context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """Tokens of one sequence at positions start, start + 1, … The last one gets logits."""

    token_ids: Sequence[int]
    start: int
    page_ids: Sequence[int]
    """Pages of all positions from 0 to the chunk's end; further pages are ignored."""
    slot_in: int | None
    """Holds the state before `start`; read-only. None: start from a zero state."""
    slot_out: int
    """Receives the state after the chunk; may be `slot_in`."""
    checkpoints: Sequence[tuple[int, int]] = ()
    """Positions inside the chunk, ascending, each with the slot that receives the state there."""
    scored_ids: Sequence[int] = ()
    """The known tokens at positions start + 1, start + 2, … whose log-probabilities are requested;
    at most one for each token of the chunk."""
    num_top: int = 0
    """The number of most likely tokens to return with each."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def slots_written(self) -> list[int]:
        """In order of position."""
        return [*(slot for _, slot in self.checkpoints), self.slot_out]

    @property
    def positions_kept(self) -> list[int]:
        """The number of tokens in each state of `slots_written`."""
        return [*(position for position, _ in self.checkpoints), self.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeChunk:
    """A confirmed token of one sequence, and drafts after it to verify. Each token gets logits and
    a state."""

    token_ids: Sequence[int]
    """At positions start, start + 1, …; at most `MAX_VERIFY_TOKENS`."""
    start: int
    page_ids: Sequence[int]
    """Pages of all positions from 0 to the chunk's end; further pages are ignored."""
    slot_in: int
    """Holds the state before `start`. It is read before any slot is written, so it may be one of
    `slots_out`."""
    slots_out: Sequence[int]
    """Each receives the state after the token with the same index."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def slots_written(self) -> list[int]:
        return list(self.slots_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftStart:
    """Where a sequence starts to draft: at the first token that is not in its cache."""

    position: int
    """Position of that token; at least 1."""
    page_ids: Sequence[int]
    """Pages of all positions from 0 to that of the last token that the MTP layer reads; further
    pages are ignored."""
    slot: int
    """Holds the hidden state before that token; read-only."""


Chunk = PrefillChunk | DecodeChunk
