"""Sampling from few candidates, in two launches: for rows that are greedy or have a small top-k.

    list     the best tokens of each chunk, after mask, bias and penalties (triton_list.py)
    choose   the best of those lists; top-k, top-p, min-p, noise and the choice among them alone

Both take the best of their keys again and again, as many times as the row's top-k requires.

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
from segue.kernels.sampling.rows import Ledger, SamplingFeatures, SamplingRows
from segue.kernels.sampling.triton_list import (
    ID_BITS,
    IDS,
    LOWEST,
    NO_SCORE,
    SLOTS,
    is_adjusted,
    listed,
    num_wanted_of,
    take_best,
)
from segue.kernels.sampling.triton_select import NUM_WARPS, after_temperature


@triton.jit
def random_words(seed, position, counters):
    """Four words of 32 random bits for each counter: for the tokens from 4 · counter on."""
    zeros = (counters * 0).to(tl.uint32)
    low = zeros + (position & 0xFFFFFFFF).to(tl.uint32)
    high = zeros + (position >> 32).to(tl.uint32)
    return tl.philox(seed, counters.to(tl.uint32), low, high, zeros)


@triton.jit
def gumbel_of(words):
    uniform = (words.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)
    # One minus a 33-bit number is exact, so this is as precise as log1p.
    return -tl.log(-tl.log(1.0 - uniform))


@triton.jit
def gumbel_at(seed, position, ids):
    """Float64 noise of these tokens, int32."""
    word_0, word_1, word_2, word_3 = random_words(seed, position, ids // 4)
    lane = ids % 4
    words = tl.where(lane < 2, tl.where(lane == 0, word_0, word_1), word_2)
    return gumbel_of(tl.where(lane == 3, word_3, words))


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
    keys = tl.load(keys_ptr + row * num_chunks * SLOTS + places, mask=inside, other=LOWEST)
    most = tl.where(temperature > 0.0, SLOTS, 1)
    found, last, following = take_best(keys, num_wanted, most, SLOTS)
    slots = tl.arange(0, SLOTS)
    ids = ((found & IDS) ^ IDS).to(tl.int32)
    orders = found >> ID_BITS
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
    ties_N = tl.load(tie_ptrs, mask=chunks_N < num_chunks, other=NO_SCORE)
    lacks = (following == last) | (tl.sum((ties_N == order).to(tl.int32), 0) > 0)
    lacks &= (temperature > 0.0) & (mass > 0.0)
    num_read = tl.where(lacks, num_chunks, 0)
    is_logits = ~is_adjusted(mask_row_ptr, slot_ptr, row)
    is_above = (orders > last) & (found != LOWEST)
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
    ids_R = torch.empty_like(rows.seed_R)
    if not num_rows:
        return ids_R
    scores_RV, keys_RNS, tie_RN = listed(logits_RV, rows, needs, ledger, chunk)
    num_chunks = tie_RN.shape[1]
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
