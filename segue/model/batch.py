"""What one forward pass must know about the sequences in it, as tensors.

    rows of the batch   ┌ d0 │ d1 │ d2 │ p0 p0 p0 p0 p0 │ p1 p1 p1 ┐
                        └── steps ─────┴── prompts ────────────────┘

A *step* is one token of a sequence that has a state; a *prompt* is any other run of tokens. Steps
come first, so that each layer cuts its rows once and gives each part to the operator made for it.

A prompt is cut into *segments* where a state is kept on the way: the recurrent layers leave one
after each. Attention sees whole prompts.

T tokens in the batch, D steps, N prompts, M segments, P pages of the longest sequence, B chunks
(= D + N).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Sequences that go one token on, all computed at once."""

    slots_in_D: Tensor
    slots_out_D: Tensor
    page_table_DP: Tensor
    """Short rows repeat a page of their own."""
    lengths_D: Tensor
    """Tokens of the sequence, this one included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """In order: one continues from the slot that the one before it writes."""

    cu_tokens_M1: Tensor
    """Segment m has rows cu[m] to cu[m + 1], counted from the first prompt row."""
    slots_in_M: Tensor
    """`NO_SLOT` begins from a zero state."""
    slots_out_M: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Runs of tokens, each continuing a sequence at `starts`."""

    cu_tokens_N1: Tensor
    """Prompt n has rows cu[n] to cu[n + 1], counted from the first prompt row."""
    starts_N: Tensor
    page_table_NP: Tensor
    """Short rows repeat a page of their own."""
    segments: Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    token_ids_T: Tensor
    positions_T: Tensor
    pages_T: Tensor
    """The page that takes each token's K and V."""
    offsets_T: Tensor
    """Its place in that page."""
    last_rows_B: Tensor
    """The row of each chunk's last token, in the order the chunks were given."""
    num_steps: int
    steps: Steps | None
    prompts: Prompts | None
