"""Sampling in Triton: a program for each chunk of a row, and nothing that the host waits for.

Rows that are greedy or have a small top-k are sampled in two launches (triton_few.py), others by:

    adjust     mask, bias and penalties                       if a row uses them; triton_list.py
    select     the scores at which top-k and top-p cut        triton_select.py
    draw       Gumbel noise, and the best token of a chunk
    reduce     the best of the chunks

R rows, V vocabulary, N chunks of a row, CHUNK tokens of one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start
from segue.kernels.sampling.rows import Ledger, SamplingFeatures, SamplingRows
from segue.kernels.sampling.triton_few import gumbel_of, random_words, sample_few
from segue.kernels.sampling.triton_list import adjusted
from segue.kernels.sampling.triton_select import (
    NUM_WARPS,
    after_temperature,
    order_key,
    top_k_keys,
    top_p_keys,
)

CHUNK = 4096
"""The same for all batches, so that a row's sums always have the same order."""


@triton.jit
def gumbel_noise(seed, position, first_id, CHUNK: tl.constexpr):
    """Float64 noise of CHUNK consecutive tokens from `first_id` on, a multiple of four."""
    counters = first_id // 4 + tl.arange(0, CHUNK // 4)
    word_0, word_1, word_2, word_3 = random_words(seed, position, counters)
    return gumbel_of(tl.interleave(tl.interleave(word_0, word_2), tl.interleave(word_1, word_3)))


@triton.jit
def draw_kernel(
    scores_ptr,
    highest_ptr,
    temperature_ptr,
    seed_ptr,
    position_ptr,
    top_k_key_ptr,
    top_p_key_ptr,
    stay_ptr,
    min_p_ptr,
    best_ptr,
    best_id_ptr,
    vocab_size,
    num_chunks,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    MIN_P: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = ids < vocab_size
    scores = tl.load(scores_ptr + row * vocab_size + ids, mask=inside, other=-float("inf"))
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0.0:
        values = after_temperature(scores, tl.load(highest_ptr + row), temperature)
        keys = order_key(scores)
        stays = inside
        if MIN_P:
            stays &= tl.exp(values) >= tl.load(min_p_ptr + row)
        if TOP_K:
            stays &= keys >= tl.load(top_k_key_ptr + row)
        if TOP_P:
            key = tl.load(top_p_key_ptr + row)
            equals = inside & (keys == key)
            num_stay = tl.load(stay_ptr + row * num_chunks + chunk)
            is_low = tl.cumsum(equals.to(tl.int32), 0) <= num_stay
            stays &= (keys > key) | (equals & is_low)
        noise = gumbel_noise(
            tl.load(seed_ptr + row), tl.load(position_ptr + row), chunk * CHUNK, CHUNK
        )
        values = tl.where(stays, values + noise, -float("inf"))
    else:
        values = scores.to(tl.float64)
    best, place = tl.max(values, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(best_ptr + row * num_chunks + chunk, best)
    tl.store(best_id_ptr + row * num_chunks + chunk, chunk * CHUNK + place)


@triton.jit
def reduce_kernel(
    best_ptr,
    best_id_ptr,
    out_ptr,
    vocab_size,
    num_chunks,
    CHUNKS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    chunks_N = tl.arange(0, CHUNKS)
    inside = chunks_N < num_chunks
    best_N = tl.load(best_ptr + row * num_chunks + chunks_N, mask=inside, other=-float("inf"))
    _, chunk = tl.max(best_N, 0, return_indices=True, return_indices_tie_break_left=True)
    # NaN scores give an arbitrary token, but an existing one.
    chunk = tl.minimum(chunk, num_chunks - 1)
    token_id = tl.minimum(tl.load(best_id_ptr + row * num_chunks + chunk), vocab_size - 1)
    tl.store(out_ptr + row, token_id.to(tl.int64))


def sample(
    logits_RV: Tensor,
    rows: SamplingRows,
    needs: SamplingFeatures,
    ledger: Ledger | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """As the reference's."""
    _check(logits_RV, rows, needs, ledger)
    if not (needs.draws_any or needs.adjusts):
        return logits_RV.argmax(dim=1)
    if not needs.draws:
        return sample_few(logits_RV, rows, needs, ledger, chunk=chunk)
    if not len(logits_RV):
        return torch.empty_like(rows.seed_R)
    scores_RV = adjusted(logits_RV, rows, needs, ledger, chunk)
    num_rows, vocab_size = scores_RV.shape
    num_chunks = triton.cdiv(vocab_size, chunk)
    highest_R = scores_RV.amax(dim=1)
    top_k_key_R = top_p_key_R = stay_RN = None
    if needs.top_k:
        top_k_key_R = top_k_keys(scores_RV, highest_R, rows.top_k_R, chunk)
    if needs.top_p:
        least_R = torch.zeros_like(rows.seed_R) if top_k_key_R is None else top_k_key_R
        top_p_key_R, stay_RN = top_p_keys(
            scores_RV, highest_R, rows.temperature_R, rows.top_p_R, least_R, chunk
        )
    best_RN = scores_RV.new_empty((num_rows, num_chunks), dtype=torch.float64)
    best_id_RN = scores_RV.new_empty((num_rows, num_chunks), dtype=torch.int32)
    draw_kernel[(num_rows, num_chunks)](
        scores_RV,
        highest_R,
        rows.temperature_R,
        rows.seed_R,
        rows.position_R,
        top_k_key_R,
        top_p_key_R,
        stay_RN,
        rows.min_p_R,
        best_RN,
        best_id_RN,
        vocab_size,
        num_chunks,
        TOP_K=needs.top_k,
        TOP_P=needs.top_p,
        MIN_P=needs.min_p,
        CHUNK=chunk,
        num_warps=NUM_WARPS,
        **dependent_launch.options(scores_RV.device),
    )
    ids_R = torch.empty_like(rows.seed_R)
    reduce_kernel[(num_rows,)](
        best_RN,
        best_id_RN,
        ids_R,
        vocab_size,
        num_chunks,
        CHUNKS=triton.next_power_of_2(num_chunks),
        num_warps=1,
        **dependent_launch.options(scores_RV.device),
    )
    return ids_R


def _check(
    logits_RV: Tensor, rows: SamplingRows, needs: SamplingFeatures, ledger: Ledger | None
) -> None:
    if logits_RV.dtype is not torch.float32 or not logits_RV.is_contiguous():
        raise ValueError(
            f"sample takes contiguous float32 logits [R, V], got {logits_RV.dtype} with strides "
            f"{logits_RV.stride()}; call float() or contiguous() first"
        )
    num_rows, vocab_size = logits_RV.shape
    for name in SamplingRows.__dataclass_fields__:
        tensor = getattr(rows, name)
        if len(tensor) != num_rows or not tensor.is_contiguous():
            raise ValueError(
                f"sample takes a contiguous {name} for {num_rows} rows, got shape "
                f"{tuple(tensor.shape)}, strides {tensor.stride()}"
            )
    num_words = triton.cdiv(vocab_size, 32)
    for wanted, name, width in (
        (needs.bias, "bias_SV", vocab_size),
        (needs.penalties, "counts_SV", vocab_size),
        (needs.masks, "masks_MW", num_words),
    ):
        tensor = None if ledger is None else getattr(ledger, name)
        if wanted and (tensor is None or tensor.shape[1] != width or not tensor.is_contiguous()):
            raise ValueError(
                f"sample takes a contiguous {name} of {width} columns for these needs, got "
                f"{None if tensor is None else tuple(tensor.shape)}"
            )
