"""The best experts of each token, in Triton: a few iterations over keys that are all distinct.

T tokens, E experts, A experts of a token.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segue.kernels.float_order import of_order, order_of


@triton.jit
def ranked(
    logits_ptr,
    tokens_T,
    num_tokens,
    num_experts,
    A: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """1 + a for a token's a-th best expert and 0 for the others [BLOCK_T, BLOCK_E], and the weights
    of the best ones [BLOCK_T, BLOCK_A]."""
    experts_E = tl.arange(0, BLOCK_E)
    inside_T = tokens_T < num_tokens
    inside_TE = inside_T[:, None] & (experts_E < num_experts)[None, :]
    offsets_TE = tokens_T.to(tl.int64)[:, None] * num_experts + experts_E[None, :]
    logits_TE = tl.load(logits_ptr + offsets_TE, mask=inside_TE, other=0.0).to(tl.float32)

    # A key is the logit as an integer in the same order, with the expert in its low bits. A token's
    # keys are all distinct, so each iteration takes one: the lowest id among equal logits. A
    # NaN counts as some number. A taken key is replaced by its rank, which is below all keys.
    keys_TE = (order_of(logits_TE).to(tl.int64) << 32) | (A + BLOCK_E - experts_E).to(tl.int64)[
        None, :
    ]
    lowest_TE = tl.full((BLOCK_T, BLOCK_E), -(2**63), tl.int64)
    keys_TE = tl.where(inside_TE, keys_TE, lowest_TE)
    ranks_A = tl.arange(0, BLOCK_A)
    best_TA = tl.full((BLOCK_T, BLOCK_A), float("-inf"), tl.float32)
    # Summed best first: the order of a reduction would depend on the number of tokens.
    largest_T = of_order((tl.max(keys_TE, axis=1) >> 32).to(tl.int32))
    total_T = tl.zeros((BLOCK_T,), tl.float32)
    for rank in range(A):
        key_T = tl.max(keys_TE, axis=1)
        keys_TE = tl.where(inside_TE & (keys_TE == key_T[:, None]), lowest_TE + rank + 1, keys_TE)
        best_T = of_order((key_T >> 32).to(tl.int32))
        best_TA = tl.where(ranks_A[None, :] == rank, best_T[:, None], best_TA)
        total_T += tl.exp(best_T - largest_T)
    ranks_TE = tl.where(keys_TE <= lowest_TE + A, keys_TE - lowest_TE, 0).to(tl.int32)
    return ranks_TE, tl.exp(best_TA - largest_T[:, None]) / total_T[:, None]


@triton.jit
def choose(
    logits_ptr,
    weights_ptr,
    tokens_T,
    num_tokens,
    num_experts,
    A: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """The ranks of each token's experts, as `ranked` gives them; stores the best ones' weights."""
    ranks_TE, weights_TA = ranked(
        logits_ptr, tokens_T, num_tokens, num_experts, A, BLOCK_A, BLOCK_T, BLOCK_E
    )
    ranks_A = tl.arange(0, BLOCK_A)
    offsets_TA = tokens_T.to(tl.int64)[:, None] * A + ranks_A[None, :]
    inside_TA = (tokens_T < num_tokens)[:, None] & (ranks_A < A)[None, :]
    tl.store(weights_ptr + offsets_TA, weights_TA, mask=inside_TA)
    return ranks_TE
