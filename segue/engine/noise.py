"""Random numbers that are a function of (seed, position, token id) and of nothing else.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11) is
a keyed permutation of counters: no state, so any worker draws the noise of any position at any
time, for the tokens it is asked about and in whatever order.

    key      seed low, seed high
    counter  token id // 4, position low, position high, 0
    output   four words: one each for the four tokens that share the counter

Up to the uniform number all is integer arithmetic, exact on every device; a 32-bit integer plus a
half is exact in float64 too, so devices differ by the last bit of two logarithms at most. Triton's
`tl.philox` takes the same key and counter words and gives the same four words.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Letters of shapes: N = numbers wanted, B = counters, 2 = the two halves of a round.
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORDS_PER_COUNTER = 4


def gumbel(seed: int, position: int, token_ids_N: Tensor) -> Tensor:
    """Standard Gumbel noise, float64 [N], for the token at `position` being each of `token_ids_N`.

    `position` is the absolute one that the new token takes in its sequence.
    """
    if token_ids_N.numel() == 0:
        return torch.empty(0, dtype=torch.float64, device=token_ids_N.device)
    words_N = _words_of_tokens(seed, position, token_ids_N.to(torch.int64))
    # In (0, 1), never 0 or 1. Small numbers are exact to the last bit, and with log1p they become
    # the large values of the noise, which decide.
    uniform_N = words_N.to(torch.float64).add_(0.5).mul_(-(2.0**-32))
    return uniform_N.log1p_().neg_().log_().neg_()


def _words_of_tokens(seed: int, position: int, token_ids_N: Tensor) -> Tensor:
    first, last = (int(bound) // _WORDS_PER_COUNTER for bound in token_ids_N.aminmax())
    if last - first < token_ids_N.numel():
        # Most of a range is wanted: draw each counter of it once.
        counters_B = torch.arange(first, last + 1, device=token_ids_N.device)
        words_B4 = philox(_counters(counters_B, position), (seed & _WORD, seed >> 32))
        return words_B4.flatten()[token_ids_N - first * _WORDS_PER_COUNTER]
    counters_N = _counters(token_ids_N // _WORDS_PER_COUNTER, position)
    words_N4 = philox(counters_N, (seed & _WORD, seed >> 32))
    return words_N4.gather(1, (token_ids_N % _WORDS_PER_COUNTER)[:, None])[:, 0]


def _counters(first_word_B: Tensor, position: int) -> Tensor:
    counters_4B = first_word_B.new_zeros((4, first_word_B.numel()))
    counters_4B[0] = first_word_B
    counters_4B[1] = position & _WORD
    counters_4B[2] = position >> 32
    return counters_4B


def philox(counters_4B: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox-4x32-10: int64 [4, B] of 32-bit counter words, and the key's two, to words [B, 4]."""
    even_2B, odd_2B = counters_4B[0::2], counters_4B[1::2]
    multipliers_21 = counters_4B.new_tensor(_MULTIPLIERS)[:, None]
    for key_21 in _key_schedule(key).to(counters_4B.device)[..., None]:
        # A product has 64 bits and int64 wraps, so the bits are right; only the sign is not, and
        # the mask removes it.
        product_2B = even_2B * multipliers_21
        high_2B = (product_2B >> 32).bitwise_and_(_WORD)
        even_2B = high_2B.flip(0).bitwise_xor_(odd_2B).bitwise_xor_(key_21)
        odd_2B = product_2B.bitwise_and_(_WORD).flip(0)
    return torch.stack((even_2B[0], odd_2B[0], even_2B[1], odd_2B[1]), dim=1)


def _key_schedule(key: tuple[int, int]) -> Tensor:
    """The key of each round, [rounds, 2]."""
    return torch.tensor(
        [
            [(word + index * step) & _WORD for word, step in zip(key, _KEY_STEPS, strict=True)]
            for index in range(_ROUNDS)
        ]
    )
