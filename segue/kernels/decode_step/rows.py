"""The memory that a decode step reads and updates, and the tensors of an open step.

R rows of memory, F integers of a row, P pages, K most drafts, S slots of a ring, E end tokens, B
sequences of a step, J draft rounds, T = J · B tokens round by round.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from segue.kernels.sampling import SamplingRows

END_IDS = 8
"""Columns for end tokens; `NO_TOKEN` for none."""


class Column(IntEnum):
    """Of `StepMemory.integers_RF`. The slots of the ring follow, then the end tokens."""

    LAST_TOKEN = 0
    """Confirmed, and not yet in the cache."""
    POSITION = 1
    """Of that token: the state contains the tokens before it."""
    NUM_LEFT = 2
    """Tokens that may still be added to the answer."""
    STATE = 3
    CHECKPOINT = 4
    """`NO_SLOT` for none. May be the state's slot; not written until another one replaces it."""
    SLOTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Tensors at fixed addresses, a row for each sequence. All int64 but the numbers."""

    integers_RF: Tensor
    """Columns as `Column` says. `NO_SLOT` fills a shorter ring."""
    pages_RP: Tensor
    drafts_RK: Tensor
    """Of the current step, for its second half."""
    sampling_R5: Tensor
    """Seed, top-k, slot, mask, and 1 if the masks of further rounds follow that mask."""
    numbers_R6: Tensor
    """Float64: temperature, top-p, min-p and the three penalties."""
    page_tokens: int
    scratch_page: int
    """Receives keys and values of padding."""
    scratch_slot: int

    @property
    def num_slots(self) -> int:
        return self.integers_RF.shape[1] - Column.SLOTS - END_IDS


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStep:
    """Contiguous, int64 but the numbers. A sequence that must stop before the last round, because
    its answer or its ring ends, has padding there: token 0, and scratch units."""

    num_tokens_B: Tensor
    """Real tokens of each decode chunk."""
    state_B: Tensor
    token_ids_T: Tensor
    """`add_draft` fills further rounds."""
    positions_T: Tensor
    next_positions_T: Tensor
    """One more: the token's length, and the position of the token sampled after it."""
    pages_T: Tensor
    offsets_T: Tensor
    slots_out_T: Tensor
    page_table_BP: Tensor
    rows_T: Tensor
    """0, 1, 2, …"""
    before_T: Tensor
    """Where the hidden state before each token is: as `segue.model.batch.HiddenRows` says."""
    sampling: SamplingRows
    """A row for each token; tokens pending are the drafts before it."""
    unmasked_T: Tensor
    """As the sampling's masks, without those of rows that have many: for drafts that are drawn
    before their masks are known."""

    @property
    def num_sequences(self) -> int:
        return len(self.num_tokens_B)

    @property
    def num_rounds(self) -> int:
        return len(self.token_ids_T) // len(self.num_tokens_B)

    def round(self, depth: int) -> slice:
        """Of the tokens of a draft round."""
        return slice(depth * self.num_sequences, (depth + 1) * self.num_sequences)

    @property
    def drafts_BK(self) -> Tensor:
        """Without padding they would be the drafts; a view."""
        return self.token_ids_T.view(self.num_rounds, -1)[1:].T
