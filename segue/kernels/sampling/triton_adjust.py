"""Logits with masks, bias and penalties. R rows, V vocabulary, CHUNK tokens of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start
from segue.kernels.sampling.rows import IN_PROMPT, Ledger, SamplingFeatures, SamplingRows
from segue.kernels.sampling.triton_select import NUM_WARPS

_IN_PROMPT = tl.constexpr(IN_PROMPT)


@triton.jit
def adjusted_scores(
    logits_ptr,
    mask_row_ptr,
    masks_ptr,
    slot_ptr,
    bias_ptr,
    counts_ptr,
    repetition_ptr,
    presence_ptr,
    frequency_ptr,
    pending_ptr,
    row,
    ids,
    inside,
    vocab_size,
    num_words,
    num_pending,
    MASKS: tl.constexpr,
    BIAS: tl.constexpr,
    PENALTIES: tl.constexpr,
):
    """The scores of a row's tokens `ids`; arbitrary for those that are not `inside`. Two roundings
    for a penalty, as in the reference: launch without fused multiply-adds."""
    scores = tl.load(logits_ptr + row * vocab_size + ids, mask=inside, other=0.0)
    if MASKS:
        mask_row = tl.load(mask_row_ptr + row).to(tl.int64)
        if mask_row >= 0:
            word_ptrs = masks_ptr + mask_row * num_words + ids // 32
            words = tl.load(word_ptrs, mask=inside, other=0)
            scores = tl.where((words >> (ids % 32)) & 1 != 0, scores, -float("inf"))
    if BIAS or PENALTIES:
        slot = tl.load(slot_ptr + row).to(tl.int64)
        if slot >= 0:
            if BIAS:
                scores += tl.load(bias_ptr + slot * vocab_size + ids, mask=inside, other=0.0)
            if PENALTIES:
                counts = tl.load(counts_ptr + slot * vocab_size + ids, mask=inside, other=0)
                for place in range(num_pending):
                    counts += (ids == tl.load(pending_ptr + row * num_pending + place)).to(tl.int32)
                penalty = tl.load(repetition_ptr + row).to(tl.float32)
                penalised = tl.where(scores < 0, scores * penalty, tl.div_rn(scores, penalty))
                scores = tl.where(counts != 0, penalised, scores)
                in_answer = counts & (_IN_PROMPT - 1)
                scores -= tl.load(frequency_ptr + row).to(tl.float32) * in_answer.to(tl.float32)
                presence = tl.load(presence_ptr + row).to(tl.float32)
                scores = tl.where(in_answer > 0, scores - presence, scores)
    return scores


@triton.jit(do_not_specialize=["num_pending"])
def adjust_kernel(
    logits_ptr,
    mask_row_ptr,
    masks_ptr,
    slot_ptr,
    bias_ptr,
    counts_ptr,
    repetition_ptr,
    presence_ptr,
    frequency_ptr,
    pending_ptr,
    scores_ptr,
    vocab_size,
    num_words,
    num_pending,
    MASKS: tl.constexpr,
    BIAS: tl.constexpr,
    PENALTIES: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    inside = ids < vocab_size
    scores = adjusted_scores(
        logits_ptr,
        mask_row_ptr,
        masks_ptr,
        slot_ptr,
        bias_ptr,
        counts_ptr,
        repetition_ptr,
        presence_ptr,
        frequency_ptr,
        pending_ptr,
        row,
        ids,
        inside,
        vocab_size,
        num_words,
        num_pending,
        MASKS,
        BIAS,
        PENALTIES,
    )
    tl.store(scores_ptr + row * vocab_size + ids, scores, mask=inside)


def adjusted(
    logits_RV: Tensor,
    rows: SamplingRows,
    needs: SamplingFeatures,
    ledger: Ledger | None,
    chunk: int,
) -> Tensor:
    """The logits themselves if no row has a mask, a bias or a penalty."""
    if not needs.adjusts:
        return logits_RV
    num_rows, vocab_size = logits_RV.shape
    scores_RV = torch.empty_like(logits_RV)
    if num_rows:
        adjust_kernel[(num_rows, triton.cdiv(vocab_size, chunk))](
            *adjusting(logits_RV, rows, ledger),
            scores_RV,
            *counts_of(logits_RV, rows, ledger),
            MASKS=needs.masks,
            BIAS=needs.bias,
            PENALTIES=needs.penalties,
            CHUNK=chunk,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
            **dependent_launch.options(logits_RV.device),
        )
    return scores_RV


def adjusting(
    logits_RV: Tensor, rows: SamplingRows, ledger: Ledger | None
) -> tuple[Tensor | None, ...]:
    """The tensors that `adjusted_scores` reads, in its order."""
    return (
        logits_RV,
        rows.mask_R,
        None if ledger is None else ledger.masks_MW,
        rows.slot_R,
        None if ledger is None else ledger.bias_SV,
        None if ledger is None else ledger.counts_SV,
        rows.repetition_penalty_R,
        rows.presence_penalty_R,
        rows.frequency_penalty_R,
        rows.pending_RP,
    )


def counts_of(logits_RV: Tensor, rows: SamplingRows, ledger: Ledger | None) -> tuple[int, int, int]:
    """The integers that `adjusted_scores` takes: tokens, words of a mask, pending tokens."""
    masks_MW = None if ledger is None else ledger.masks_MW
    num_words = 0 if masks_MW is None else masks_MW.shape[1]
    return logits_RV.shape[1], num_words, rows.pending_RP.shape[1]
