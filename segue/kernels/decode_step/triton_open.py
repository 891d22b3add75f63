"""Opening a decode step in Triton: a program of one warp for each sequence, and some for its pages.

B sequences, J draft rounds, T = J · B tokens round by round, S slots of a ring, E end tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import NO_SLOT, dependent_launch
from segue.kernels.decode_step.rows import Column, OpenStep, StepMemory
from segue.kernels.dependent_launch import start
from segue.kernels.draft_rounds import MAX_ROUNDS
from segue.kernels.sampling import NO_TOKEN, SamplingRows

PAGES_AT_ONCE = 1024
LAST_TOKEN = tl.constexpr(Column.LAST_TOKEN.value)
POSITION = tl.constexpr(Column.POSITION.value)
NUM_LEFT = tl.constexpr(Column.NUM_LEFT.value)
STATE = tl.constexpr(Column.STATE.value)
CHECKPOINT = tl.constexpr(Column.CHECKPOINT.value)
SLOTS = tl.constexpr(Column.SLOTS.value)
MISSING = tl.constexpr(NO_SLOT)
_NO_TOKEN = tl.constexpr(NO_TOKEN)
ROUNDS = tl.constexpr(MAX_ROUNDS)
_PER_TOKEN = 13
"""Integers of a token that `open_kernel` writes."""
_NUMBERS = tl.constexpr(6)


@triton.jit(do_not_specialize=["num_sequences", "num_rounds", "num_pages", "field_stride"])
def open_kernel(
    row_ids_ptr,
    integers_ptr,
    pages_ptr,
    drafts_ptr,
    sampling_ptr,
    numbers_ptr,
    out_ptr,
    numbers_out_ptr,
    pending_ptr,
    page_table_ptr,
    num_sequences,
    num_rounds,
    num_pages,
    num_integers,
    max_pages,
    max_drafts,
    page_tokens,
    scratch_page,
    scratch_slot,
    field_stride,
    HAS_DRAFTS: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_P: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """The first program of a sequence does all but the page table, whose parts the others copy."""
    start(IS_DEPENDENT)
    sequence = tl.program_id(0)
    row = tl.load(row_ids_ptr + sequence)
    part = tl.program_id(1) - 1
    if part >= 0:
        columns = part * BLOCK_P + tl.arange(0, BLOCK_P)
        is_inside = columns < num_pages
        copied = tl.load(pages_ptr + row * max_pages + columns, mask=is_inside)
        copy_ptrs = page_table_ptr + sequence.to(tl.int64) * num_pages + columns
        tl.store(copy_ptrs, copied, mask=is_inside)
    else:
        of_row = integers_ptr + row * num_integers
        position = tl.load(of_row + POSITION)
        state, kept = tl.load(of_row + STATE), tl.load(of_row + CHECKPOINT)
        # As rings.writable: the state's own slot first, then the free ones in their order.
        places_S = tl.arange(0, BLOCK_S)
        slots_S = tl.load(of_row + SLOTS + places_S, mask=places_S < NUM_SLOTS, other=MISSING)
        is_first_S = (slots_S == state) & (slots_S != kept)
        is_free_S = (slots_S != MISSING) & (slots_S != state) & (slots_S != kept)
        num_first = tl.sum(is_first_S.to(tl.int32), 0)
        order_S = num_first + tl.cumsum(is_free_S.to(tl.int32), 0) - 1
        order_S = tl.where(is_first_S, 0, order_S)
        is_writable_S = is_first_S | is_free_S
        num_writable = tl.sum(is_writable_S.to(tl.int32), 0).to(tl.int64)
        num_left = tl.load(of_row + NUM_LEFT)
        num_tokens = tl.minimum(tl.minimum(num_writable, num_left), num_rounds)

        rounds_J = tl.arange(0, ROUNDS)
        inside_J = rounds_J < num_rounds
        counts_J = rounds_J < num_tokens
        is_used_JS = is_writable_S[None, :] & (order_S[None, :] == rounds_J[:, None])
        slots_J = tl.sum(tl.where(is_used_JS, slots_S[None, :], 0), 1)
        positions_J = position + rounds_J
        page_ptrs = pages_ptr + row * max_pages + positions_J // page_tokens
        pages_J = tl.load(page_ptrs, mask=counts_J, other=0)
        tokens_J = tl.where(rounds_J == 0, tl.load(of_row + LAST_TOKEN), 0)
        if HAS_DRAFTS:
            draft_ptrs = drafts_ptr + row * max_drafts + rounds_J - 1
            tokens_J += tl.load(draft_ptrs, mask=inside_J & (rounds_J > 0), other=0)
        num_all = num_rounds * num_sequences
        rows_J = rounds_J * num_sequences + sequence
        before_J = rows_J + tl.where(rounds_J == 0, num_all, -num_sequences)
        of_sampling = sampling_ptr + row * 5
        mask, has_many = tl.load(of_sampling + 3), tl.load(of_sampling + 4)
        out_ptrs = out_ptr + rows_J
        tl.store(out_ptrs, tokens_J, mask=inside_J)
        tl.store(out_ptrs + field_stride, positions_J, mask=inside_J)
        tl.store(out_ptrs + 2 * field_stride, positions_J + 1, mask=inside_J)
        pages_J = tl.where(counts_J, pages_J, scratch_page)
        tl.store(out_ptrs + 3 * field_stride, pages_J, mask=inside_J)
        tl.store(out_ptrs + 4 * field_stride, positions_J % page_tokens, mask=inside_J)
        slots_J = tl.where(counts_J, slots_J, scratch_slot)
        tl.store(out_ptrs + 5 * field_stride, slots_J, mask=inside_J)
        tl.store(out_ptrs + 6 * field_stride, rows_J.to(tl.int64), mask=inside_J)
        tl.store(out_ptrs + 7 * field_stride, before_J.to(tl.int64), mask=inside_J)
        zeros_J = tl.zeros([ROUNDS], tl.int64)
        for field in tl.static_range(3):
            value_J = zeros_J + tl.load(of_sampling + field)
            tl.store(out_ptrs + (8 + field) * field_stride, value_J, mask=inside_J)
        tl.store(out_ptrs + 11 * field_stride, mask + rounds_J * has_many, mask=inside_J)
        unmasked_J = zeros_J + tl.where(has_many == 1, MISSING, mask)
        tl.store(out_ptrs + 12 * field_stride, unmasked_J, mask=inside_J)
        tl.store(out_ptr + 13 * field_stride + sequence, num_tokens)
        tl.store(out_ptr + 13 * field_stride + num_sequences + sequence, state)
        for field in tl.static_range(_NUMBERS):
            value = tl.load(numbers_ptr + row * _NUMBERS + field)
            number_ptrs = numbers_out_ptr + field * field_stride + rows_J
            tl.store(number_ptrs, tl.zeros([ROUNDS], tl.float64) + value, mask=inside_J)
        num_drafts = num_rounds - 1
        pending_JK = tl.full([ROUNDS, ROUNDS], _NO_TOKEN, tl.int64)
        inside_JK = inside_J[:, None] & (rounds_J < num_drafts)[None, :]
        if HAS_DRAFTS:
            drafts_K = tl.load(
                drafts_ptr + row * max_drafts + rounds_J, mask=rounds_J < num_drafts, other=0
            )
            is_before_JK = rounds_J[None, :] < rounds_J[:, None]
            pending_JK = tl.where(is_before_JK, drafts_K[None, :], pending_JK)
        pending_ptrs = pending_ptr + rows_J[:, None] * num_drafts + rounds_J[None, :]
        tl.store(pending_ptrs, pending_JK, mask=inside_JK)


def open_step(
    row_ids_B: Tensor,
    memory: StepMemory,
    *,
    num_rounds: int,
    num_pages: int,
    has_drafts: bool = False,
) -> OpenStep:
    """As the reference's."""
    num = len(row_ids_B)
    num_all = num * num_rounds
    _check(memory, num_rounds)
    # Each part starts at a multiple of 16 bytes, as kernels are compiled for.
    field_stride = num_all + num_all % 2
    out = row_ids_B.new_empty(_PER_TOKEN * field_stride + 2 * num)
    numbers = memory.numbers_R6.new_empty(6, field_stride)
    pending_TK = row_ids_B.new_empty(num_all, num_rounds - 1)
    page_table_BP = row_ids_B.new_empty(num, num_pages)
    open_kernel[(num, 1 + triton.cdiv(num_pages, PAGES_AT_ONCE))](
        row_ids_B,
        memory.integers_RF,
        memory.pages_RP,
        memory.drafts_RK,
        memory.sampling_R5,
        memory.numbers_R6,
        out,
        numbers,
        pending_TK,
        page_table_BP,
        num,
        num_rounds,
        num_pages,
        memory.integers_RF.shape[1],
        memory.pages_RP.shape[1],
        memory.drafts_RK.shape[1],
        memory.page_tokens,
        memory.scratch_page,
        memory.scratch_slot,
        field_stride,
        HAS_DRAFTS=has_drafts,
        NUM_SLOTS=memory.num_slots,
        BLOCK_S=triton.next_power_of_2(memory.num_slots),
        BLOCK_P=PAGES_AT_ONCE,
        num_warps=1,
        **dependent_launch.options(row_ids_B.device),
    )
    of_tokens = out[: _PER_TOKEN * field_stride].view(_PER_TOKEN, field_stride)[:, :num_all]
    tokens, positions, following, pages, offsets, slots_out, rows, before, *drawing = of_tokens
    seed, top_k, slot, mask, unmasked = drawing
    num_tokens_B, state_B = out[_PER_TOKEN * field_stride :].view(2, num)
    temperature, top_p, min_p, repetition, presence, frequency = numbers[:, :num_all]
    return OpenStep(
        num_tokens_B=num_tokens_B,
        state_B=state_B,
        token_ids_T=tokens,
        positions_T=positions,
        next_positions_T=following,
        pages_T=pages,
        offsets_T=offsets,
        slots_out_T=slots_out,
        page_table_BP=page_table_BP,
        rows_T=rows,
        before_T=before,
        sampling=SamplingRows(
            seed_R=seed,
            position_R=following,
            top_k_R=top_k,
            slot_R=slot,
            mask_R=mask,
            temperature_R=temperature,
            top_p_R=top_p,
            min_p_R=min_p,
            repetition_penalty_R=repetition,
            presence_penalty_R=presence,
            frequency_penalty_R=frequency,
            pending_RP=pending_TK,
        ),
        unmasked_T=unmasked,
    )


def _check(memory: StepMemory, num_rounds: int) -> None:
    if not 1 <= num_rounds <= min(MAX_ROUNDS, memory.num_slots):
        raise ValueError(
            f"a step has 1 to {min(MAX_ROUNDS, memory.num_slots)} draft rounds with rings of "
            f"{memory.num_slots} slots, got {num_rounds}"
        )
    for name in ("integers_RF", "pages_RP", "drafts_RK", "sampling_R5", "numbers_R6"):
        tensor = getattr(memory, name)
        if not tensor.is_contiguous():
            raise ValueError(f"open_step takes a contiguous {name}, got strides {tensor.stride()}")
