"""What one forward pass must know about the sequences in it, as tensors.

    rows of the batch   ┌ d0 d1 d2 │ d0 d1 │ d0 ┐┌ p0 p0 p0 p0 p0 │ p1 p1 p1 ┐
                        └─ round 0 ┴ round 1 ┴ … ┘└── prompts ───────────────┘
                        └────────── steps ───────┘

A *run* is one token of a sequence that has a state, or a few of which each leaves a state of its
own: a certain one, then drafts. A *prompt* is any other run of tokens. Runs come first, so that
each layer cuts its rows once and gives each part to the operator made for it. They are ordered by
falling length and lie round by round: round j has the j-th token of every run that is so long. So a
round is a slice, and what the recurrent layers compute at once.

A prompt is cut into *segments* where a state is kept on the way: the recurrent layers leave one
after each. Attention sees whole prompts, and whole runs.

T tokens in the batch or of its runs, D runs, N prompts, M segments, P pages of the longest
sequence, R rows with logits, I chunks that continue from a state, K states kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [T, 1, R] of tokens' positions, as `rotary_tables` makes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Sequences that go on by a run each, all computed at once."""

    round_sizes: tuple[int, ...]
    """How many runs have a j-th token; falling. One round is a step of a token each."""
    slots_in_D: Tensor
    """Hold the states before the runs, and are only read."""
    slots_out_T: Tensor
    """Of each row: takes the state after its token, from which the run's next one continues."""
    page_table_DP: Tensor
    """Short rows repeat a page of their own."""
    lengths_D: Tensor
    """Tokens of the sequence, the run's first one included and the others not."""

    @property
    def num_tokens(self) -> int:
        return sum(self.round_sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSegments:
    """In order: one begins with the state that the one before it of the same prompt ends with."""

    cu_tokens_M1: Tensor
    """Segment m has rows cu[m] to cu[m + 1], counted from the first prompt row."""
    slots_out_M: Tensor
    cu_segments_N1: Tensor
    """Prompt n has segments cu[n] to cu[n + 1]."""
    slots_in_N: Tensor
    """Of each prompt's first segment. `NO_SLOT` begins from a zero state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Runs of tokens, each continuing a sequence at `starts`."""

    cu_tokens_N1: Tensor
    """Prompt n has rows cu[n] to cu[n + 1], counted from the first prompt row."""
    starts_N: Tensor
    page_table_NP: Tensor
    """Short rows repeat a page of their own."""
    segments: PrefillSegments


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenRows:
    """Which token's hidden state an MTP layer joins to which token, and which of them are kept."""

    slots_in_I: Tensor
    """Hold the hidden state before a chunk. They are read before any is written."""
    before_T: Tensor
    """Of each token, where the hidden state of the one before it is: a row of this batch, or T + i
    for that in `slots_in[i]`. Position 0 has none before it and names its own."""
    rows_K: Tensor
    slots_out_K: Tensor
    """Takes the hidden state of row `rows[k]`: the last one that the slot's state contains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    token_ids_T: Tensor
    positions_T: Tensor
    pages_T: Tensor
    """The page that takes each token's K and V."""
    offsets_T: Tensor
    """Its place in that page."""
    logit_rows_R: Tensor
    """The rows to predict from, in the order the chunks were given."""
    steps: Steps | None
    prompts: Prompts | None
    hidden: HiddenRows | None
    """None where no MTP layer is served."""

    @property
    def num_step_tokens(self) -> int:
        return self.steps.num_tokens if self.steps else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftBatch:
    """One token of each of D sequences, for the MTP layer alone."""

    token_ids_D: Tensor
    rotary: Rotary
    """Of the tokens' positions."""
    lengths_D: Tensor
    """Tokens of the sequence, this one included."""
    pages: Tensor
    """[Z, 2, G, O, X] of the MTP layer, into which the tokens' keys and values go."""
    pages_D: Tensor
    offsets_D: Tensor
    page_table_DP: Tensor
    """Short rows repeat a page of their own."""
