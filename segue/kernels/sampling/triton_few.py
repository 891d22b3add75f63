"""Sampling from few candidates, in two launches: for rows that are greedy or have a small top-k.

    list     the best tokens of each chunk, after mask, bias and penalties
    choose   the best of those lists; top-k, top-p, min-p, noise and the choice among them alone

Both take the best of their keys again and again, as many times as the row's top-k says. A key is
the score as an integer in the same order, with the token's id in its low bits, so all keys are
distinct, and the lowest id comes first among equal scores.

Top-k keeps all tokens whose score equals the k-th, however many they are. Lists have room for some.
If that is not enough, `choose` reads the row's scores again, chunk by chunk: slow, and rare.

R rows, V vocabulary, N chunks of a row, CHUNK tokens of one, SLOTS places of a list.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start
from segue.kernels.float_order import of_order, order_of
from segue.kernels.sampling.rows import MAX_FEW, Ledger, SamplingFeatures, SamplingRows
from segue.kernels.sampling.triton_adjust import adjusted_scores, adjusting, counts_of
from segue.kernels.sampling.triton_select import NUM_WARPS, after_temperature

SLOTS = 64
_SPARE = tl.constexpr(8)
"""More tokens than the row asks for that a chunk lists while they equal the last one."""
_LOWEST = tl.constexpr(-(2**63))
_ID_BITS = tl.constexpr(32)
_IDS = tl.constexpr(2**32 - 1)
_MINUS_INFINITY = tl.constexpr(-2139095041)
"""`order_of` of it. Tokens with this score are never drawn."""
_NO_SCORE = tl.constexpr(-(2**31))
"""Below the order of every score."""

assert MAX_FEW + _SPARE.value <= SLOTS


@triton.jit
def key_of(scores, ids):
    return (order_of(scores).to(tl.int64) << _ID_BITS) | (ids.to(tl.int64) ^ _IDS)


@triton.jit
def take_best(keys, num_wanted, most, SLOTS: tl.constexpr):
    """The best `num_wanted` keys, best first, and up to `most` if further ones have the last one's
    score. None of a score of minus infinity, unless it is the only one. Returns the keys [SLOTS],
    the order of the last wanted one's score, and of the next key's."""
    slots = tl.arange(0, SLOTS)
    found = tl.full([SLOTS], _LOWEST, tl.int64)
    key = tl.max(keys, 0)
    last = key >> _ID_BITS
    num_found = 0
    goes_on = True
    while goes_on:
        found = tl.where(slots == num_found, key, found)
        num_found += 1
        last = tl.where(num_found <= num_wanted, key >> _ID_BITS, last)
        key = tl.max(tl.where(keys < key, keys, _LOWEST), 0)
        is_tie = (key >> _ID_BITS == last) & (num_found < most)
        goes_on = ((num_found < num_wanted) | is_tie) & (key >> _ID_BITS > _MINUS_INFINITY)
    return found, last, key >> _ID_BITS


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
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
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
    if MASKS or BIAS or PENALTIES:
        # Only for ties that the lists lack.
        is_stored = inside & is_adjusted(mask_row_ptr, slot_ptr, row)
        tl.store(scores_ptr + row * vocab_size + ids, scores, mask=is_stored)
    temperature = tl.load(temperature_ptr + row)
    num_wanted = num_wanted_of(temperature, tl.load(top_k_ptr + row), vocab_size)
    most = tl.where(temperature > 0.0, num_wanted + _SPARE, 1)
    keys = tl.where(inside, key_of(scores, ids), _LOWEST)
    found, last, following = take_best(keys, num_wanted, most, SLOTS)
    at = row * num_chunks + chunk
    tl.store(keys_ptr + at * SLOTS + tl.arange(0, SLOTS), found)
    # The score of which the list lacks tokens that may be among the row's best.
    is_cut = (temperature > 0.0) & (following == last)
    tl.store(tie_ptr + at, tl.where(is_cut, last, _NO_SCORE).to(tl.int32))


@triton.jit
def gumbel_at(seed, position, ids):
    """Float64 noise of these tokens, int32."""
    zeros = (ids * 0).to(tl.uint32)
    low = zeros + (position & 0xFFFFFFFF).to(tl.uint32)
    high = zeros + (position >> 32).to(tl.uint32)
    word_0, word_1, word_2, word_3 = tl.philox(seed, (ids // 4).to(tl.uint32), low, high, zeros)
    lane = ids % 4
    words = tl.where(lane < 2, tl.where(lane == 0, word_0, word_1), word_2)
    words = tl.where(lane == 3, word_3, words)
    uniform = (words.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)
    # One minus a 33-bit number is exact, so this is as precise as log1p.
    return -tl.log(-tl.log(1.0 - uniform))


@triton.jit
def equals_in(
    logits_ptr, scores_ptr, is_logits, row, chunk, order, vocab_size, CHUNK: tl.constexpr
):
    """The tokens of a chunk, and which of them have the score with this order."""
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = ids < vocab_size
    logits = tl.load(logits_ptr + row * vocab_size + ids, mask=inside & is_logits, other=0.0)
    scores = tl.load(scores_ptr + row * vocab_size + ids, mask=inside & ~is_logits, other=0.0)
    scores = tl.where(is_logits, logits, scores)
    return ids, inside & (order_of(scores) == order)


@triton.jit
def choose_kernel(
    logits_ptr,
    mask_row_ptr,
    slot_ptr,
    scores_ptr,
    keys_ptr,
    tie_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    position_ptr,
    out_ptr,
    vocab_size,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    SLOTS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperature_ptr + row)
    num_wanted = num_wanted_of(temperature, tl.load(top_k_ptr + row), vocab_size)
    places = tl.arange(0, CHUNKS * SLOTS)
    inside = places < num_chunks * SLOTS
    keys = tl.load(keys_ptr + row * num_chunks * SLOTS + places, mask=inside, other=_LOWEST)
    most = tl.where(temperature > 0.0, SLOTS, 1)
    found, last, following = take_best(keys, num_wanted, most, SLOTS)
    slots = tl.arange(0, SLOTS)
    ids = ((found & _IDS) ^ _IDS).to(tl.int32)
    orders = found >> _ID_BITS
    scores = of_order(orders.to(tl.int32))
    highest = tl.max(tl.where(slots == 0, scores, -float("inf")), 0)
    values = after_temperature(scores, highest, temperature)
    # Of each token that equals the last wanted one.
    order = last.to(tl.int32)
    value = after_temperature(of_order(order), highest, temperature)
    mass = tl.exp(value)

    # Lists and `found` may lack such tokens. Then the scores are read again.
    chunks_N = tl.arange(0, CHUNKS)
    tie_ptrs = tie_ptr + row * num_chunks + chunks_N
    ties_N = tl.load(tie_ptrs, mask=chunks_N < num_chunks, other=_NO_SCORE)
    lacks = (following == last) | (tl.sum((ties_N == order).to(tl.int32), 0) > 0)
    lacks &= (temperature > 0.0) & (mass > 0.0)
    num_read = tl.where(lacks, num_chunks, 0)
    is_logits = ~is_adjusted(mask_row_ptr, slot_ptr, row)
    is_above = (orders > last) & (found != _LOWEST)
    is_equal = (orders == last) & (num_read == 0)
    num_equal = tl.sum(is_equal.to(tl.int32), 0)
    for chunk in range(num_read):
        _, equals = equals_in(
            logits_ptr, scores_ptr, is_logits, row, chunk, order, vocab_size, CHUNK
        )
        num_equal += tl.sum(equals.to(tl.int32), 0)

    # Best first, a token goes if it and all after it have no more than 1 - top_p of the mass.
    masses = tl.where(is_above, tl.exp(values), 0.0)
    of_equals = num_equal.to(tl.float64) * mass
    limit = (1.0 - tl.load(top_p_ptr + row)) * (tl.sum(masses, 0) + of_equals)
    below = tl.cumsum(masses, 0, reverse=True) + of_equals
    num_after = num_equal - (slots - tl.sum(is_above.to(tl.int32), 0))
    stays = (is_above & (below > limit)) | (is_equal & (num_after.to(tl.float64) * mass > limit))
    min_p = tl.load(min_p_ptr + row)
    stays = (stays & (tl.exp(values) >= min_p)) | (slots == 0)
    if temperature > 0.0:
        limit = tl.where(mass >= min_p, limit, float("inf"))
        seed, position = tl.load(seed_ptr + row), tl.load(position_ptr + row)
        noisy = tl.where(stays, values + gumbel_at(seed, position, ids), -float("inf"))
        best, place = tl.max(noisy, 0, return_indices=True, return_indices_tie_break_left=True)
        best_id = tl.sum(tl.where(slots == place, ids, 0), 0)
        rank = 0
        for chunk in range(num_read):
            all_ids, equals = equals_in(
                logits_ptr, scores_ptr, is_logits, row, chunk, order, vocab_size, CHUNK
            )
            num_here = tl.sum(equals.to(tl.int32), 0)
            if num_here > 0:
                num_after_it = num_equal - rank - tl.cumsum(equals.to(tl.int32), 0) + 1
                kept = equals & (num_after_it.to(tl.float64) * mass > limit)
                noise = gumbel_at(seed, position, all_ids)
                best_here, place = tl.max(
                    tl.where(kept, value + noise, -float("inf")),
                    0,
                    return_indices=True,
                    return_indices_tie_break_left=True,
                )
                best_id = tl.where(best_here > best, chunk * CHUNK + place, best_id)
                best = tl.maximum(best, best_here)
                rank += num_here
    else:
        best_id = tl.sum(tl.where(slots == 0, ids, 0), 0)
    # NaN scores give an arbitrary token, but an existing one.
    best_id = tl.maximum(tl.minimum(best_id, vocab_size - 1), 0)
    tl.store(out_ptr + row, best_id.to(tl.int64))


def sample_few(
    logits_RV: Tensor,
    rows: SamplingRows,
    needs: SamplingFeatures,
    ledger: Ledger | None,
    *,
    chunk: int,
) -> Tensor:
    """As the reference's `sample`, for needs without `draws`. The arguments are checked."""
    num_rows, vocab_size = logits_RV.shape
    num_chunks = triton.cdiv(vocab_size, chunk)
    ids_R = torch.empty_like(rows.seed_R)
    if not num_rows:
        return ids_R
    scores_RV = torch.empty_like(logits_RV) if needs.adjusts else logits_RV
    keys_RNS = ids_R.new_empty((num_rows, num_chunks, SLOTS))
    tie_RN = ids_R.new_empty((num_rows, num_chunks), dtype=torch.int32)
    list_kernel[(num_rows, num_chunks)](
        *adjusting(logits_RV, rows, ledger),
        scores_RV,
        rows.temperature_R,
        rows.top_k_R,
        keys_RNS,
        tie_RN,
        *counts_of(logits_RV, rows, ledger),
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
    choose_kernel[(num_rows,)](
        logits_RV,
        rows.mask_R,
        rows.slot_R,
        scores_RV,
        keys_RNS,
        tie_RN,
        rows.temperature_R,
        rows.top_k_R,
        rows.top_p_R,
        rows.min_p_R,
        rows.seed_R,
        rows.position_R,
        ids_R,
        vocab_size,
        num_chunks,
        CHUNK=chunk,
        CHUNKS=triton.next_power_of_2(num_chunks),
        SLOTS=SLOTS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
        **dependent_launch.options(logits_RV.device),
    )
    return ids_R
