"""Logits with masks, bias and penalties, and the best tokens of each chunk of a row.

A list has the best tokens of a chunk, as many as the row's top-k, or 1 if the row is greedy. A key
is the score as an integer in the same order, with the token's id in its low bits, so all keys are
distinct, and the lowest id comes first among equal scores.

R rows, V vocabulary, N chunks of a row, CHUNK tokens of one, SLOTS places of a list.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start
from segue.kernels.float_order import order_of
from segue.kernels.sampling.rows import (
    IN_PROMPT,
    MAX_FEW,
    Ledger,
    SamplingFeatures,
    SamplingRows,
)
from segue.kernels.sampling.triton_select import NUM_WARPS

SLOTS = 64
_IN_PROMPT = tl.constexpr(IN_PROMPT)
_SPARE = tl.constexpr(8)
"""More tokens than the row asks for that a chunk lists while they equal the last one."""
LOWEST = tl.constexpr(-(2**63))
ID_BITS = tl.constexpr(32)
IDS = tl.constexpr(2**32 - 1)
_MINUS_INFINITY = tl.constexpr(-2139095041)
"""`order_of` of it. Tokens with this score are never drawn."""
NO_SCORE = tl.constexpr(-(2**31))
"""Below the order of every score."""

assert MAX_FEW + _SPARE.value <= SLOTS


@triton.jit
def key_of(scores, ids):
    return (order_of(scores).to(tl.int64) << ID_BITS) | (ids.to(tl.int64) ^ IDS)


@triton.jit
def take_best(keys, num_wanted, most, SLOTS: tl.constexpr):
    """The best `num_wanted` keys, best first, and up to `most` if further ones have the last one's
    score. None of a score of minus infinity, unless it is the only one. Returns the keys [SLOTS],
    the order of the last wanted one's score, and of the next key's."""
    slots = tl.arange(0, SLOTS)
    found = tl.full([SLOTS], LOWEST, tl.int64)
    key = tl.max(keys, 0)
    last = key >> ID_BITS
    num_found = 0
    goes_on = True
    while goes_on:
        found = tl.where(slots == num_found, key, found)
        num_found += 1
        last = tl.where(num_found <= num_wanted, key >> ID_BITS, last)
        key = tl.max(tl.where(keys < key, keys, LOWEST), 0)
        is_tie = (key >> ID_BITS == last) & (num_found < most)
        goes_on = ((num_found < num_wanted) | is_tie) & (key >> ID_BITS > _MINUS_INFINITY)
    return found, last, key >> ID_BITS


@triton.jit
def num_wanted_of(temperature, top_k, vocab_size):
    return tl.where(temperature > 0.0, tl.minimum(top_k, vocab_size), 1).to(tl.int32)


@triton.jit
def is_adjusted(mask_row_ptr, slot_ptr, row):
    """Whether a row's scores differ from its logits."""
    return (tl.load(mask_row_ptr + row) >= 0) | (tl.load(slot_ptr + row) >= 0)


@triton.jit(do_not_specialize=["num_pending"])
def list_kernel(
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
    temperature_ptr,
    top_k_ptr,
    keys_ptr,
    tie_ptr,
    vocab_size,
    num_words,
    num_pending,
    num_chunks,
    MASKS: tl.constexpr,
    BIAS: tl.constexpr,
    PENALTIES: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """Without `keys`, only the scores. Two roundings for a penalty, as in the reference: launch
    without fused multiply-adds."""
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = ids < vocab_size
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
    if keys_ptr is None:
        tl.store(scores_ptr + row * vocab_size + ids, scores, mask=inside)
    else:
        if MASKS or BIAS or PENALTIES:
            # Only for ties that the lists lack.
            is_stored = inside & is_adjusted(mask_row_ptr, slot_ptr, row)
            tl.store(scores_ptr + row * vocab_size + ids, scores, mask=is_stored)
        temperature = tl.load(temperature_ptr + row)
        num_wanted = num_wanted_of(temperature, tl.load(top_k_ptr + row), vocab_size)
        most = tl.where(temperature > 0.0, num_wanted + _SPARE, 1)
        keys = tl.where(inside, key_of(scores, ids), LOWEST)
        found, last, following = take_best(keys, num_wanted, most, SLOTS)
        at = row * num_chunks + chunk
        tl.store(keys_ptr + at * SLOTS + tl.arange(0, SLOTS), found)
        # The score of which the list lacks tokens that may be among the row's best.
        is_cut = (temperature > 0.0) & (following == last)
        tl.store(tie_ptr + at, tl.where(is_cut, last, NO_SCORE).to(tl.int32))


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
    return _scores_and(None, None, logits_RV, rows, needs, ledger, chunk)


def listed(
    logits_RV: Tensor,
    rows: SamplingRows,
    needs: SamplingFeatures,
    ledger: Ledger | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [R, V], only of rows with a mask or slot; the keys of each list [R, N, SLOTS], int64;
    and the order of the score of which it lacks tokens [R, N], int32."""
    num_rows, vocab_size = logits_RV.shape
    num_chunks = triton.cdiv(vocab_size, chunk)
    keys_RNS = rows.seed_R.new_empty((num_rows, num_chunks, SLOTS))
    tie_RN = rows.seed_R.new_empty((num_rows, num_chunks), dtype=torch.int32)
    scores_RV = _scores_and(keys_RNS, tie_RN, logits_RV, rows, needs, ledger, chunk)
    return scores_RV, keys_RNS, tie_RN


def _scores_and(
    keys_RNS: Tensor | None,
    tie_RN: Tensor | None,
    logits_RV: Tensor,
    rows: SamplingRows,
    needs: SamplingFeatures,
    ledger: Ledger | None,
    chunk: int,
) -> Tensor:
    num_rows, vocab_size = logits_RV.shape
    scores_RV = torch.empty_like(logits_RV) if needs.adjusts else logits_RV
    num_chunks = triton.cdiv(vocab_size, chunk)
    masks_MW = ledger.masks_MW if ledger else None
    list_kernel[(num_rows, num_chunks)](
        logits_RV,
        rows.mask_R,
        masks_MW,
        rows.slot_R,
        ledger.bias_SV if ledger else None,
        ledger.counts_SV if ledger else None,
        rows.repetition_penalty_R,
        rows.presence_penalty_R,
        rows.frequency_penalty_R,
        rows.pending_RP,
        scores_RV,
        rows.temperature_R,
        rows.top_k_R,
        keys_RNS,
        tie_RN,
        vocab_size,
        0 if masks_MW is None else masks_MW.shape[1],
        rows.pending_RP.shape[1],
        num_chunks,
        MASKS=needs.masks,
        BIAS=needs.bias,
        PENALTIES=needs.penalties,
        CHUNK=chunk,
        SLOTS=SLOTS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
        **dependent_launch.options(logits_RV.device),
    )
    return scores_RV
