"""The bookkeeping of a decode step in plain PyTorch. Nothing waits for the device or branches on
its values, so a graph can hold it.

    rows of memory ─ open_step ─▶ tokens, places, sampling ─ add_draft, a round at a time
                                                           └ close_step ─▶ memory, and a result

Letters of shapes: see `segue.kernels.decode_step.rows`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.decode_step.rings import Rings, after, writable
from segue.kernels.decode_step.rows import END_IDS, Column, OpenStep, StepMemory
from segue.kernels.sampling import NO_TOKEN, SamplingRows, num_accepted, observe


def open_step(
    row_ids_B: Tensor,
    memory: StepMemory,
    *,
    num_rounds: int,
    num_pages: int,
    has_drafts: bool = False,
) -> OpenStep:
    """The step of these rows, int64. Only a padding row may occur more than once.

    `num_rounds`: at most one less than a ring's slots. `num_pages`: columns of the page table.
    `has_drafts`: the second half of a step, whose drafts are in memory.
    """
    integers_FB = memory.integers_RF.index_select(0, row_ids_B).T.contiguous()
    slots_BS = integers_FB[Column.SLOTS : Column.SLOTS + memory.num_slots].T
    rings = Rings(slots_BS, integers_FB[Column.STATE], integers_FB[Column.CHECKPOINT])
    ordered_BS, num_writable_B = writable(rings)
    num_tokens_B = num_writable_B.minimum(integers_FB[Column.NUM_LEFT]).clamp(max=num_rounds)
    rounds_J1 = torch.arange(num_rounds, device=row_ids_B.device).unsqueeze(1)
    is_padding_JB = rounds_J1 >= num_tokens_B
    positions_JB = integers_FB[Column.POSITION] + rounds_J1
    page_table_BP = memory.pages_RP[:, :num_pages].index_select(0, row_ids_B)
    pages_JB = page_table_BP.gather(1, positions_JB.T // memory.page_tokens).T
    slots_JB = ordered_BS[:, :num_rounds].T
    token_ids_JB = torch.zeros_like(positions_JB)
    token_ids_JB[0] = integers_FB[Column.LAST_TOKEN]
    if has_drafts:
        token_ids_JB[1:] = memory.drafts_RK[:, : num_rounds - 1].index_select(0, row_ids_B).T
    # For a chunk's j-th token, the drafts before it.
    is_before_J1K = rounds_J1[:-1, 0] < rounds_J1.unsqueeze(1)
    drafts_BK = token_ids_JB[1:].T if has_drafts else NO_TOKEN
    pending_JBK = torch.where(is_before_J1K.expand(-1, len(row_ids_B), -1), drafts_BK, NO_TOKEN)
    num_tokens = token_ids_JB.numel()
    rows_T = torch.arange(num_tokens, device=row_ids_B.device)
    # The first round follows the hidden states from slots, which come after the batch's own.
    before_T = torch.where(rows_T < len(row_ids_B), rows_T + num_tokens, rows_T - len(row_ids_B))
    seed_B, top_k_B, slot_B, mask_B, has_many_B = memory.sampling_R5.index_select(0, row_ids_B).T
    numbers_6T = memory.numbers_R6.index_select(0, row_ids_B).T.repeat(1, num_rounds)
    temperature_T, top_p_T, min_p_T, repetition_T, presence_T, frequency_T = numbers_6T
    next_positions_T = positions_JB.flatten() + 1
    return OpenStep(
        num_tokens_B=num_tokens_B,
        state_B=rings.state_B,
        token_ids_T=token_ids_JB.flatten(),
        positions_T=positions_JB.flatten(),
        next_positions_T=next_positions_T,
        pages_T=pages_JB.masked_fill(is_padding_JB, memory.scratch_page).flatten(),
        offsets_T=positions_JB.flatten() % memory.page_tokens,
        slots_out_T=slots_JB.masked_fill(is_padding_JB, memory.scratch_slot).flatten(),
        page_table_BP=page_table_BP,
        rows_T=rows_T,
        before_T=before_T,
        sampling=SamplingRows(
            seed_R=seed_B.repeat(num_rounds),
            position_R=next_positions_T,
            top_k_R=top_k_B.repeat(num_rounds),
            slot_R=slot_B.repeat(num_rounds),
            mask_R=(mask_B + rounds_J1 * has_many_B).flatten(),
            temperature_R=temperature_T,
            top_p_R=top_p_T,
            min_p_R=min_p_T,
            repetition_penalty_R=repetition_T,
            presence_penalty_R=presence_T,
            frequency_penalty_R=frequency_T,
            pending_RP=pending_JBK.flatten(0, 1),
        ),
        unmasked_T=mask_B.masked_fill(has_many_B == 1, NO_SLOT).repeat(num_rounds),
    )


def add_draft(
    drawn_B: Tensor, row_ids_B: Tensor, step: OpenStep, memory: StepMemory, depth: int
) -> None:
    """Make `drawn`, int64, the tokens of round `depth` + 1, in place: as inputs, as tokens pending
    and in memory."""
    # In a padding row even the logits may be NaN.
    draft_B = drawn_B.masked_fill(step.num_tokens_B <= depth + 1, 0)
    step.token_ids_T[step.round(depth + 1)] = draft_B
    pending_JBK = step.sampling.pending_RP.view(step.num_rounds, step.num_sequences, -1)
    pending_JBK[depth + 1 :, :, depth] = draft_B
    memory.drafts_RK[:, depth].index_copy_(0, row_ids_B, draft_B)


def close_step(
    targets_T: Tensor,
    row_ids_B: Tensor,
    step: OpenStep,
    memory: StepMemory,
    counts_SV: Tensor | None,
) -> Tensor:
    """Accept drafts that equal the trunk's own tokens, `targets`, and advance the rows of memory.
    Rows that occur twice must be equal.

    `counts_SV`, int32, counts the new tokens of rows with a slot; None if no row has penalties.
    Returns the number of new tokens of each sequence, of its drafts, and the targets [B + B + T].
    """
    num_rounds, num = step.num_rounds, step.num_sequences
    targets_BJ = targets_T.view(num_rounds, num).T
    integers_FB = memory.integers_RF.index_select(0, row_ids_B).T.contiguous()
    rounds_J = torch.arange(num_rounds, device=row_ids_B.device)
    num_drafts_B = (step.num_tokens_B - 1).clamp(min=0)
    num_new_B = num_accepted(step.drafts_BK, targets_BJ, num_drafts_B)
    num_new_B += step.num_tokens_B.clamp(max=1)
    end_ids_BE = integers_FB[-END_IDS:].T
    ends_BJ = (targets_BJ.unsqueeze(2) == end_ids_BE.unsqueeze(1)).any(2)
    ends_BJ &= rounds_J < num_new_B.unsqueeze(1)
    # Up to and including the first end token.
    goes_on_BJ = (ends_BJ.cumsum(1) - ends_BJ.long()) == 0
    num_new_B = (goes_on_BJ & (rounds_J < num_new_B.unsqueeze(1))).sum(1)
    num_left_B = (integers_FB[Column.NUM_LEFT] - num_new_B).masked_fill(ends_BJ.any(1), 0)
    position_B = integers_FB[Column.POSITION]
    slots_BS = integers_FB[Column.SLOTS : Column.SLOTS + memory.num_slots].T
    state_B, checkpoint_B = after(
        Rings(slots_BS, integers_FB[Column.STATE], integers_FB[Column.CHECKPOINT]),
        step.slots_out_T.view(num_rounds, num).T,
        positions_B=position_B,
        num_new_B=num_new_B,
        page_tokens=memory.page_tokens,
    )
    last_B1 = (num_new_B - 1).clamp(min=0).unsqueeze(1)
    last_token_B = targets_BJ.gather(1, last_B1)[:, 0]
    last_token_B = last_token_B.where(num_new_B > 0, integers_FB[Column.LAST_TOKEN])
    moved = (last_token_B, position_B + num_new_B, num_left_B, state_B, checkpoint_B)
    memory.integers_RF[:, : Column.SLOTS].index_copy_(0, row_ids_B, torch.stack(moved, dim=1))
    if counts_SV is not None:
        observe(counts_SV, step.sampling.slot_R[:num], targets_BJ, num_new_B)
    return torch.cat([num_new_B, num_drafts_B, targets_T])
