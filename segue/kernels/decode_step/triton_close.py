"""Drafts and the end of a decode step in Triton: a program of one warp for each sequence.

B sequences, J draft rounds, T = J · B tokens round by round, S slots of a ring, E end tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.decode_step.rows import END_IDS, OpenStep, StepMemory
from segue.kernels.decode_step.triton_open import (
    CHECKPOINT,
    LAST_TOKEN,
    MISSING,
    NUM_LEFT,
    POSITION,
    ROUNDS,
    SLOTS,
    STATE,
)
from segue.kernels.dependent_launch import start

_END_IDS = tl.constexpr(END_IDS)


@triton.jit(do_not_specialize=["num_sequences", "num_rounds", "depth"])
def add_draft_kernel(
    drawn_ptr,
    row_ids_ptr,
    num_tokens_ptr,
    tokens_ptr,
    pending_ptr,
    drafts_ptr,
    num_sequences,
    num_rounds,
    max_drafts,
    depth,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    sequence = tl.program_id(0)
    is_real = tl.load(num_tokens_ptr + sequence) > depth + 1
    # In a padding row even the logits may be NaN.
    draft = tl.where(is_real, tl.load(drawn_ptr + sequence), 0)
    tl.store(tokens_ptr + (depth + 1) * num_sequences + sequence, draft)
    tl.store(drafts_ptr + tl.load(row_ids_ptr + sequence) * max_drafts + depth, draft)
    rounds_J = tl.arange(0, ROUNDS)
    rows_J = rounds_J * num_sequences + sequence
    is_after_J = (rounds_J > depth) & (rounds_J < num_rounds)
    pending_ptrs = pending_ptr + rows_J * (num_rounds - 1) + depth
    tl.store(pending_ptrs, tl.zeros([ROUNDS], tl.int64) + draft, mask=is_after_J)


@triton.jit(do_not_specialize=["num_sequences", "num_rounds"])
def close_kernel(
    targets_ptr,
    row_ids_ptr,
    num_tokens_ptr,
    tokens_ptr,
    slots_out_ptr,
    slot_ptr,
    integers_ptr,
    counts_ptr,
    result_ptr,
    num_sequences,
    num_rounds,
    num_integers,
    page_tokens,
    vocab_size,
    COUNTS: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    sequence = tl.program_id(0)
    of_row = integers_ptr + tl.load(row_ids_ptr + sequence) * num_integers
    rounds_J = tl.arange(0, ROUNDS)
    inside_J = rounds_J < num_rounds
    rows_J = rounds_J * num_sequences + sequence
    targets_J = tl.load(targets_ptr + rows_J, mask=inside_J, other=0)
    num_tokens = tl.load(num_tokens_ptr + sequence).to(tl.int32)
    num_drafts = tl.maximum(num_tokens - 1, 0)
    is_draft_J = rounds_J < num_drafts
    drafts_J = tl.load(tokens_ptr + rows_J + num_sequences, mask=is_draft_J, other=0)
    # The first draft that is wrong, or none.
    is_right_J = is_draft_J & (drafts_J == targets_J)
    num_accepted = tl.min(tl.where(is_right_J, ROUNDS, rounds_J), 0)
    num_new = num_accepted + tl.minimum(num_tokens, 1)
    ends_E = tl.load(of_row + SLOTS + NUM_SLOTS + tl.arange(0, _END_IDS))
    is_end_JE = targets_J[:, None] == ends_E[None, :]
    is_end_J = (tl.sum(is_end_JE.to(tl.int32), 1) > 0) & (rounds_J < num_new)
    # Up to and including the first end token.
    first_end = tl.min(tl.where(is_end_J, rounds_J, ROUNDS), 0)
    num_new = tl.minimum(num_new, first_end + 1)
    is_ended = first_end < ROUNDS
    is_last_J = rounds_J == num_new - 1

    position = tl.load(of_row + POSITION)
    outputs_J = tl.load(slots_out_ptr + rows_J, mask=inside_J, other=0)
    # A ring of one slot keeps no checkpoint: the next chunk has to write that slot.
    places_S = tl.arange(0, BLOCK_S)
    slots_S = tl.load(of_row + SLOTS + places_S, mask=places_S < NUM_SLOTS, other=MISSING)
    num_slots = tl.sum((slots_S != MISSING).to(tl.int32), 0)
    boundary = (position + num_new) // page_tokens * page_tokens
    is_kept_J = rounds_J == boundary - position - 1
    keeps = (boundary > position) & (num_slots > 1)
    kept = tl.sum(tl.where(is_kept_J, outputs_J, 0), 0)
    checkpoint = tl.where(keeps, kept, tl.load(of_row + CHECKPOINT))
    state = tl.sum(tl.where(is_last_J, outputs_J, 0), 0)
    state = tl.where(num_new > 0, state, tl.load(of_row + STATE))
    last = tl.sum(tl.where(is_last_J, targets_J, 0), 0)
    last = tl.where(num_new > 0, last, tl.load(of_row + LAST_TOKEN))
    num_left = tl.where(is_ended, 0, tl.load(of_row + NUM_LEFT) - num_new)
    if COUNTS:
        slot = tl.load(slot_ptr + sequence)
        is_new_J = (rounds_J < num_new) & (slot >= 0)
        # A token that occurs twice is counted at its first place.
        is_same_JJ = (targets_J[:, None] == targets_J[None, :]) & is_new_J[None, :]
        is_earlier_JJ = is_same_JJ & (rounds_J[None, :] < rounds_J[:, None])
        is_new_J &= tl.sum(is_earlier_JJ.to(tl.int32), 1) == 0
        count_ptrs = counts_ptr + slot * vocab_size + targets_J
        counts_J = tl.load(count_ptrs, mask=is_new_J, other=0)
        counts_J += tl.sum(is_same_JJ.to(tl.int32), 1)
        tl.store(count_ptrs, counts_J, mask=is_new_J)
    # All of a row is read before any of it is written.
    tl.debug_barrier()
    tl.store(of_row + LAST_TOKEN, last)
    tl.store(of_row + POSITION, position + num_new)
    tl.store(of_row + NUM_LEFT, num_left)
    tl.store(of_row + STATE, state)
    tl.store(of_row + CHECKPOINT, checkpoint)
    tl.store(result_ptr + sequence, num_new.to(tl.int64))
    tl.store(result_ptr + num_sequences + sequence, num_drafts.to(tl.int64))
    tl.store(result_ptr + 2 * num_sequences + rows_J, targets_J, mask=inside_J)


def add_draft(
    drawn_B: Tensor, row_ids_B: Tensor, step: OpenStep, memory: StepMemory, depth: int
) -> None:
    """As the reference's."""
    add_draft_kernel[(len(row_ids_B),)](
        drawn_B,
        row_ids_B,
        step.num_tokens_B,
        step.token_ids_T,
        step.sampling.pending_RP,
        memory.drafts_RK,
        len(row_ids_B),
        step.num_rounds,
        memory.drafts_RK.shape[1],
        depth,
        num_warps=1,
        **dependent_launch.options(row_ids_B.device),
    )


def close_step(
    targets_T: Tensor,
    row_ids_B: Tensor,
    step: OpenStep,
    memory: StepMemory,
    counts_SV: Tensor | None,
) -> Tensor:
    """As the reference's."""
    num = len(row_ids_B)
    result = row_ids_B.new_empty(2 * num + len(targets_T))
    close_kernel[(num,)](
        targets_T,
        row_ids_B,
        step.num_tokens_B,
        step.token_ids_T,
        step.slots_out_T,
        step.sampling.slot_R,
        memory.integers_RF,
        counts_SV,
        result,
        num,
        step.num_rounds,
        memory.integers_RF.shape[1],
        memory.page_tokens,
        0 if counts_SV is None else counts_SV.shape[1],
        COUNTS=counts_SV is not None,
        NUM_SLOTS=memory.num_slots,
        BLOCK_S=triton.next_power_of_2(memory.num_slots),
        num_warps=1,
        **dependent_launch.options(row_ids_B.device),
    )
    return result
