"""A forward pass's view of its sequences, as tensors.

    rows of the batch   ┌ d0 d1 d2 │ d0 d1 │ d0 ┐┌ p0 p0 p0 p0 p0 │ p1 p1 p1 ┐
                        └─ round 0 ┴ round 1 ┴ … ┘└── prefill ───────────────┘
                        └───────── decode ───────┘

A *decode chunk* continues a sequence from a state, with one confirmed token and possibly drafts to
verify; each token leaves its own state. A *prefill chunk* is any other span of a sequence's tokens.
Decode rows come first, so that each layer splits its rows once, one part per operator. Decode
chunks are sorted longest first and stored one *draft round* after another: draft round j has the
j-th token of every decode chunk that has one. Each round is a slice, which the recurrent layers
compute at once.

A prefill chunk is cut into *prefill segments* at the positions whose states are stored: the
recurrent layers leave a state after each. Attention computes whole chunks.

T tokens of the batch or of its decode rows, D decode chunks, N prefill chunks, M prefill segments,
P pages of the longest sequence, R rows with logits, S scored rows, I chunks that continue from a
state, K states stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from segue.kernels.paged_attention.flashinfer.prompts import Attend

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [T, 1, R] of tokens' positions, from `rotary_tables`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRows:
    """The decode chunks of a batch, one per sequence, computed together."""

    round_sizes: tuple[int, ...]
    """The number of chunks that have a j-th token, for each draft round j; it never rises. One
    round is a plain decode, further ones verify drafts."""
    slots_in_D: Tensor
    """Hold the states before the chunks; read-only."""
    slots_out_T: Tensor
    """Each row's slot for the state after its token. The chunk's next token continues from it."""
    page_table_DP: Tensor
    """Short rows repeat one of their pages."""
    lengths_D: Tensor
    """Tokens of the sequence, including the chunk's first one but not its drafts."""

    @property
    def num_tokens(self) -> int:
        return sum(self.round_sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSegments:
    """In order. Each starts from the state at the end of its chunk's previous segment."""

    cu_tokens_M1: Tensor
    """Segment m has rows cu[m] to cu[m + 1], counted from the first prefill row."""
    slots_out_M: Tensor
    cu_segments_N1: Tensor
    """Chunk n has segments cu[n] to cu[n + 1]."""
    slots_in_N: Tensor
    """The states before the chunks. `NO_SLOT`: a zero state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRows:
    """The prefill chunks of a batch, each continuing a sequence at its `starts`."""

    cu_tokens_N1: Tensor
    """Chunk n has rows cu[n] to cu[n + 1], counted from the first prefill row."""
    starts_N: Tensor
    page_table_NP: Tensor
    """Short rows repeat one of their pages."""
    segments: PrefillSegments
    attend: Attend | None = None
    """The planned attention of all layers; None: our operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRows:
    """The rows that logits need, if a batch has others too. If the last layer is attention, it
    computes only these."""

    rows_R: Tensor
    """In row order: every decode row, then the last row of each prefill chunk."""
    cu_tokens_N1: Tensor
    """As in `PrefillRows`, for chunks of one token each."""
    starts_N: Tensor
    logit_rows_R: Tensor
    """Which of these rows to predict from, in the caller's order of chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenRows:
    """The hidden state that an MTP layer joins to each token, and those that are stored."""

    slots_in_I: Tensor
    """Hold the hidden state before a chunk. All are read before any slot is written."""
    before_T: Tensor
    """The place of the hidden state of each token's predecessor: a row of this batch, or T + i for
    `slots_in[i]`. Position 0 has no predecessor and names its own row."""
    rows_K: Tensor
    slots_out_K: Tensor
    """Receives the hidden state of row `rows[k]`, the last token in the slot's state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    token_ids_T: Tensor
    positions_T: Tensor
    pages_T: Tensor
    """The page for each token's K and V."""
    offsets_T: Tensor
    """The token's place in that page."""
    logit_rows_R: Tensor
    """The rows to predict from, in the caller's order of chunks."""
    decode: DecodeRows | None
    prefill: PrefillRows | None
    hidden: HiddenRows | None
    """None if no MTP layer is served."""
    scored_rows_S: Tensor | None = None
    """The rows before tokens whose log-probabilities are requested, in the caller's order of
    chunks."""
    last: LastRows | None = None
    """None if the last hidden states of all rows are needed."""

    def of_last_rows(self) -> Batch:
        """The last rows as a batch, for attention."""
        last, prefill = self.last, self.prefill
        assert last is not None, "the last layer computes all rows"
        assert prefill is not None, "only prefill chunks have rows without logits"
        return replace(
            self,
            token_ids_T=self.token_ids_T[last.rows_R],
            positions_T=self.positions_T[last.rows_R],
            pages_T=self.pages_T[last.rows_R],
            offsets_T=self.offsets_T[last.rows_R],
            logit_rows_R=last.logit_rows_R,
            prefill=replace(
                prefill, cu_tokens_N1=last.cu_tokens_N1, starts_N=last.starts_N, attend=None
            ),
            last=None,
        )

    @property
    def num_decode_tokens(self) -> int:
        return self.decode.num_tokens if self.decode else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftBatch:
    """One token of each of D sequences, for the MTP layer alone: T = D."""

    token_ids_D: Tensor
    rotary: Rotary
    """Tables of the tokens' positions."""
    lengths_D: Tensor
    """Tokens of the sequence, including this one."""
    pages: Tensor
    """The MTP layer's pages [Z, 2, G, O, X], which receive the tokens' keys and values."""
    pages_T: Tensor
    offsets_T: Tensor
    page_table_DP: Tensor
    """Short rows repeat one of their pages."""
