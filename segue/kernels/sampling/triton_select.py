"""Top-k and top-p without sorting: the score at which a cumulative weight passes a target.

    top-k    weight 1             target  V - k            keeps scores above it, and all equal ones
    top-p    weight its mass      target  (1 - p) · sum    keeps the lowest ids among equal ones

A radix search (Knuth, TAOCP 3, 5.2.5, most significant digit first): scores become integers in the
same order, and each pass determines four bits of the wanted one. A pass adds up the weight of each
of the 16 digits, chunk by chunk; in the next pass every program adds up the chunks for itself. No
atomics: sums are float64 in a fixed order, so they do not change with the batch or from run to run.

A row without the filter has a target below 0, so its search ends below every score.
R rows, V vocabulary, N chunks of a row, CHUNK tokens of one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start
from segue.kernels.float_order import of_order, order_of

_DIGIT_BITS = 4
_NUM_DIGITS = tl.constexpr(16)
_NUM_PASSES = 8
NUM_WARPS = 16


@triton.jit
def order_key(scores):
    """Integers from 0 to 2^32 - 1, int64, in the order of float32 scores."""
    return (order_of(scores) ^ -2147483648).to(tl.uint32, bitcast=True).to(tl.int64)


@triton.jit
def score_of(key):
    """The score with this key."""
    return of_order(key.to(tl.uint32).to(tl.int32, bitcast=True) ^ -2147483648)


@triton.jit
def after_temperature(scores, highest, temperature):
    """Float64, 0 for the best score; arbitrary for a greedy row, whose temperature is 0."""
    wide = scores.to(tl.float64) - highest.to(tl.float64)
    return wide / tl.where(temperature > 0.0, temperature, 1.0)


@triton.jit
def settle_digit(sums_ptr, row, prefix, below, target, num_chunks, shift, CHUNKS: tl.constexpr):
    """Determine the digit after `prefix` from the sums of the pass at `shift`. Returns the key
    with this digit, and the weight of all keys below it."""
    chunks_N = tl.arange(0, CHUNKS)
    digits = tl.arange(0, _NUM_DIGITS)
    offsets = (row * num_chunks + chunks_N[:, None]) * _NUM_DIGITS + digits[None, :]
    sums = tl.sum(tl.load(sums_ptr + offsets, mask=chunks_N[:, None] < num_chunks, other=0.0), 0)
    up_to = below + tl.cumsum(sums, 0)
    digit = tl.minimum(tl.sum((up_to <= target).to(tl.int64), 0), _NUM_DIGITS - 1)
    return prefix | (digit << shift), below + tl.sum(tl.where(digits < digit, sums, 0.0), 0)


@triton.jit
def target_of(
    wanted_ptr, sums_ptr, row, vocab_size, num_chunks, WEIGHTED: tl.constexpr, CHUNKS: tl.constexpr
):
    """`wanted` is top-p or top-k. The sums are those of the first pass."""
    if WEIGHTED:
        top_p = tl.load(wanted_ptr + row)
        items = tl.arange(0, CHUNKS * _NUM_DIGITS)
        sums_ptr += row * num_chunks * _NUM_DIGITS
        inside = items < num_chunks * _NUM_DIGITS
        total = tl.sum(tl.load(sums_ptr + items, mask=inside, other=0.0), 0)
        target = tl.where(top_p < 1.0, (1.0 - top_p) * total, -1.0)
    else:
        top_k = tl.load(wanted_ptr + row)
        is_limited = (top_k > 0) & (top_k < vocab_size)
        target = tl.where(is_limited, vocab_size - top_k, -1).to(tl.float64)
    return target


@triton.jit(do_not_specialize=["num_rows", "num_chunks", "shift"])
def add_up_kernel(
    scores_ptr,
    highest_ptr,
    temperature_ptr,
    wanted_ptr,
    least_ptr,
    sums_in_ptr,
    sums_out_ptr,
    prefix_ptr,
    numbers_ptr,
    num_rows,
    vocab_size,
    num_chunks,
    shift,
    PASS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """PASS is 0, 1, or 2 for all later ones. State goes from one half of `prefix` and `numbers`
    (below, target) to the other half, since other programs may still read the first."""
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    half = (shift // 4) % 2
    prefix = tl.zeros((), tl.int64)
    if PASS > 0:
        below = tl.zeros((), tl.float64)
        if PASS == 1:
            target = target_of(
                wanted_ptr, sums_in_ptr, row, vocab_size, num_chunks, WEIGHTED, CHUNKS
            )
        else:
            before = (1 - half) * num_rows + row
            prefix = tl.load(prefix_ptr + before)
            below = tl.load(numbers_ptr + before * 2)
            target = tl.load(numbers_ptr + before * 2 + 1)
        prefix, below = settle_digit(
            sums_in_ptr, row, prefix, below, target, num_chunks, shift + 4, CHUNKS
        )
        if chunk == 0:
            after = half * num_rows + row
            tl.store(prefix_ptr + after, prefix)
            tl.store(numbers_ptr + after * 2, below)
            tl.store(numbers_ptr + after * 2 + 1, target)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = ids < vocab_size
    scores = tl.load(scores_ptr + row * vocab_size + ids, mask=inside, other=-float("inf"))
    keys = order_key(scores)
    counts = inside & ((keys >> (shift + 4)) == (prefix >> (shift + 4)))
    if WEIGHTED:
        counts &= keys >= tl.load(least_ptr + row)
    sums_out_ptr += (row * num_chunks + chunk) * _NUM_DIGITS
    digits = tl.arange(0, _NUM_DIGITS)
    if tl.sum(counts.to(tl.int32), 0) > 0:
        if WEIGHTED:
            highest, temperature = tl.load(highest_ptr + row), tl.load(temperature_ptr + row)
            weights = tl.exp(after_temperature(scores, highest, temperature))
        else:
            weights = tl.full([CHUNK], 1.0, tl.float64)
        own_digits = tl.where(counts, (keys >> shift) & 15, -1).to(tl.int32)
        of_digit = own_digits[None, :] == digits[:, None]
        tl.store(sums_out_ptr + digits, tl.sum(tl.where(of_digit, weights[None, :], 0.0), 1))
    else:
        tl.store(sums_out_ptr + digits, tl.zeros([_NUM_DIGITS], tl.float64))


@triton.jit
def finish_kernel(
    highest_ptr,
    temperature_ptr,
    sums_ptr,
    prefix_ptr,
    numbers_ptr,
    key_ptr,
    stay_ptr,
    num_chunks,
    WEIGHTED: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    """The key found; with weights, also how many tokens equal to it stay in each chunk."""
    start(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    prefix = tl.load(prefix_ptr + row)
    below = tl.load(numbers_ptr + row * 2)
    target = tl.load(numbers_ptr + row * 2 + 1)
    key, below = settle_digit(sums_ptr, row, prefix, below, target, num_chunks, 0, CHUNKS)
    highest = tl.load(highest_ptr + row)
    # The sums of two passes may differ by rounding, but the best token must always stay.
    key = tl.minimum(key, order_key(highest))
    tl.store(key_ptr + row, key)
    if WEIGHTED:
        key = tl.where(target < 0.0, order_key(highest), key)
        chunks_N = tl.arange(0, CHUNKS)
        inside = chunks_N < num_chunks
        offsets = (row * num_chunks + chunks_N) * _NUM_DIGITS + (key & 15)
        # All scores that share the last digit are equal, so their sum gives their number.
        mass = tl.exp(after_temperature(score_of(key), highest, tl.load(temperature_ptr + row)))
        sums_N = tl.load(sums_ptr + offsets, mask=inside, other=0.0)
        equals_N = tl.floor(sums_N / mass + 0.5)
        num_equals = tl.sum(equals_N, 0)
        num_going = tl.minimum(tl.floor((target - below) / mass), num_equals - 1.0)
        num_staying = num_equals - tl.maximum(num_going, 0.0)
        stay_N = tl.minimum(num_staying - (tl.cumsum(equals_N, 0) - equals_N), equals_N)
        stay_N = tl.where(stay_N > 0.0, stay_N, 0.0)
        tl.store(stay_ptr + row * num_chunks + chunks_N, stay_N.to(tl.int32), mask=inside)


def top_k_keys(scores_RV: Tensor, highest_R: Tensor, rows_top_k_R: Tensor, chunk: int) -> Tensor:
    """The smallest key that stays in each row, int64 [R]."""
    return _search(scores_RV, highest_R, None, rows_top_k_R, None, chunk)[0]


def top_p_keys(
    scores_RV: Tensor,
    highest_R: Tensor,
    temperature_R: Tensor,
    top_p_R: Tensor,
    least_R: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Among keys from `least_R` on: the smallest that stays, and how many tokens equal to it stay
    in each chunk, lowest ids first, int32 [R, N]."""
    return _search(scores_RV, highest_R, temperature_R, top_p_R, least_R, chunk)


def _search(
    scores_RV: Tensor,
    highest_R: Tensor,
    temperature_R: Tensor | None,
    wanted_R: Tensor,
    least_R: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    num_rows, vocab_size = scores_RV.shape
    num_chunks = triton.cdiv(vocab_size, chunk)
    weighted = least_R is not None
    sums_2RND = scores_RV.new_empty((2, num_rows, num_chunks, 16), dtype=torch.float64)
    prefix_2R = wanted_R.new_empty((2, num_rows), dtype=torch.int64)
    numbers_2R2 = scores_RV.new_empty((2, num_rows, 2), dtype=torch.float64)
    chunks_block = triton.next_power_of_2(num_chunks)
    for number in range(_NUM_PASSES):
        add_up_kernel[(num_rows, num_chunks)](
            scores_RV,
            highest_R,
            temperature_R,
            wanted_R,
            least_R,
            sums_2RND[(number + 1) % 2],
            sums_2RND[number % 2],
            prefix_2R,
            numbers_2R2,
            num_rows,
            vocab_size,
            num_chunks,
            32 - _DIGIT_BITS * (number + 1),
            PASS=min(number, 2),
            WEIGHTED=weighted,
            CHUNK=chunk,
            CHUNKS=chunks_block,
            num_warps=NUM_WARPS,
            **dependent_launch.options(scores_RV.device),
        )
    key_R = prefix_2R.new_empty(num_rows)
    stay_RN = scores_RV.new_empty((num_rows, num_chunks), dtype=torch.int32)
    finish_kernel[(num_rows,)](
        highest_R,
        temperature_R,
        sums_2RND[(_NUM_PASSES - 1) % 2],
        prefix_2R,
        numbers_2R2,
        key_R,
        stay_RN,
        num_chunks,
        WEIGHTED=weighted,
        CHUNKS=chunks_block,
        num_warps=4,
        **dependent_launch.options(scores_RV.device),
    )
    return key_R, stay_RN
