"""Random numbers that depend only on (seed, position, token id).

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11) is
a keyed permutation of counters. It has no state, so any worker can compute the noise of any
position and any tokens, at any time and in any order.

    key      seed low, seed high
    counter  token id // 4, position low, position high, 0
    output   four words: one each for the four tokens that share the counter

Everything up to the uniform number is integer arithmetic, exact on every device. A 32-bit integer
plus a half is exact in float64 too, so devices differ at most in the last bit of two logarithms.
Triton's `tl.philox` takes the same key and counter words and returns the same four words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Letters of shapes: N = numbers wanted, B = counters, 2 = the two halves of a round, R = rows, V =
# vocabulary.
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORDS_PER_COUNTER = 4
_COUNTERS_AT_ONCE = 1 << 14
"""Keeps a round's working set in a core's cache."""

MAX_NOISE = 23.0
MIN_NOISE = -4.0
"""Bounds of the noise: of all 32-bit integers plus a half, the smallest gives 22.9 and the largest
-3.2."""


def gumbel(seed_N: Tensor, position_N: Tensor, token_ids_N: Tensor) -> Tensor:
    """Standard Gumbel noise, float64 [N], one number per seed, position and token id.

    `position` is the absolute position of the new token in its sequence. All int64.
    """
    words_4N = _words(seed_N, position_N, token_ids_N // _WORDS_PER_COUNTER)
    return _as_gumbel(words_4N.gather(0, (token_ids_N % _WORDS_PER_COUNTER)[None])[0])


def gumbel_of_all(seed_R: Tensor, position_R: Tensor, vocab_size: int) -> Tensor:
    """As `gumbel`, for every token in each row, float64 [R, V]: a quarter of the work."""
    num_rows, num_counters = len(seed_R), -(-vocab_size // _WORDS_PER_COUNTER)
    at_once = max(_COUNTERS_AT_ONCE // max(num_rows, 1), 1)
    parts = []
    for counters in torch.split(torch.arange(num_counters, device=seed_R.device), at_once):
        words_4B = _words(
            seed_R.repeat_interleave(len(counters)),
            position_R.repeat_interleave(len(counters)),
            counters.repeat(num_rows),
        )
        parts.append(words_4B.T.reshape(num_rows, _WORDS_PER_COUNTER * len(counters)))
    words_RV = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return _as_gumbel(words_RV[:, :vocab_size])


def uniforms(seed: int, positions: Sequence[int]) -> list[float]:
    """Numbers in (0, 1), one for each position, for a decision about it other than the choice of
    its token. No token uses counters whose last word is 1."""
    counter_4N = torch.tensor([[0, position & _WORD, position >> 32, 1] for position in positions])
    words_4N = philox(counter_4N.T, torch.tensor([[seed & _WORD], [seed >> 32]]))
    return [(word + 0.5) * 2.0**-32 for word in words_4N[0].tolist()]


def philox(counter_4B: Tensor, key_2B: Tensor) -> Tensor:
    """Philox-4x32-10: counter words [4, B] and key words [2, B] or [2, 1], int64, to words
    [4, B]."""
    even_2B, odd_2B = counter_4B[0::2], counter_4B[1::2]
    multipliers_21 = counter_4B.new_tensor(_MULTIPLIERS)[:, None]
    key_steps_21 = counter_4B.new_tensor(_KEY_STEPS)[:, None]
    for _ in range(_ROUNDS):
        # A product has 64 bits and int64 wraps, so the bits are right. Only the sign may be wrong,
        # and the mask removes it. Only the low halves of odd words and keys are kept.
        product_2B = (even_2B * multipliers_21).flip(0)
        even_2B = (product_2B >> 32).bitwise_xor_(odd_2B).bitwise_xor_(key_2B).bitwise_and_(_WORD)
        odd_2B = product_2B
        key_2B = key_2B + key_steps_21
    odd_2B = odd_2B & _WORD
    return torch.stack((even_2B[0], odd_2B[0], even_2B[1], odd_2B[1]))


def _words(seed_B: Tensor, position_B: Tensor, counters_B: Tensor) -> Tensor:
    counter = (counters_B, position_B & _WORD, position_B >> 32, torch.zeros_like(position_B))
    return philox(torch.stack(counter), torch.stack((seed_B & _WORD, seed_B >> 32)))


def _as_gumbel(words: Tensor) -> Tensor:
    # Uniform in (0, 1), never 0 or 1. One minus a 33-bit number is exact. So small numbers keep
    # their precision; they give the large noise values, which decide.
    uniform = words.to(torch.float64).add_(0.5).mul_(2.0**-32)
    return uniform.neg_().add_(1.0).log_().neg_().log_().neg_()
