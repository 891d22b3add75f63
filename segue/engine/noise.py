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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Letters of shapes: N = numbers wanted, B = counters, 2 = the two halves of a round.
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORDS_PER_COUNTER = 4


@dataclass(frozen=True, slots=True)
class Draw:
    """The noise of the token at `position` being each of `token_ids_N` (int64, at least one).

    `position` is the absolute one that the new token takes in its sequence.
    """

    seed: int
    position: int
    token_ids_N: Tensor


def gumbel(draws: Sequence[Draw]) -> list[Tensor]:
    """Standard Gumbel noise, float64 [N], for each draw; as if each were made alone."""
    starts = [_first_counter(draw.token_ids_N) for draw in draws]
    counters = [_counters(draw, start) for draw, start in zip(draws, starts, strict=True)]
    lengths = [counters_B.numel() for counters_B in counters]
    words = torch.split(_words(draws, counters, lengths), lengths)
    picked = [_pick(*parts) for parts in zip(draws, starts, words, strict=True)]
    # In (0, 1), never 0 or 1. Small numbers are exact to the last bit, and with log1p they become
    # the large values of the noise, which decide.
    uniform = torch.cat(picked).to(torch.float64).add_(0.5).mul_(2.0**-32)
    noise = uniform.neg_().log1p_().neg_().log_().neg_()
    return list(torch.split(noise, [draw.token_ids_N.numel() for draw in draws]))


def uniform(seed: int, position: int) -> float:
    """In (0, 1), for a decision about a position beside the choice of its token: counters with a
    last word of 1 are no token's."""
    counters_4 = [0, position & _WORD, position >> 32, 1]
    words_14 = philox(
        torch.tensor(counters_4)[:, None], torch.tensor([seed & _WORD, seed >> 32])[:, None]
    )
    return (int(words_14[0, 0]) + 0.5) * 2.0**-32


def philox(counters_4B: Tensor, keys_2B: Tensor) -> Tensor:
    """Philox-4x32-10: counter words [4, B] and key words [2, B], int64, to words [B, 4]."""
    even_2B, odd_2B = counters_4B[0::2], counters_4B[1::2]
    multipliers_21 = counters_4B.new_tensor(_MULTIPLIERS)[:, None]
    key_steps_21 = counters_4B.new_tensor(_KEY_STEPS)[:, None]
    for _ in range(_ROUNDS):
        # A product has 64 bits and int64 wraps, so the bits are right; only the sign is not, and
        # the mask removes it.
        product_2B = even_2B * multipliers_21
        high_2B = (product_2B >> 32).bitwise_and_(_WORD)
        even_2B = high_2B.flip(0).bitwise_xor_(odd_2B).bitwise_xor_(keys_2B)
        odd_2B = product_2B.bitwise_and_(_WORD).flip(0)
        keys_2B = (keys_2B + key_steps_21).bitwise_and_(_WORD)
    return torch.stack((even_2B[0], odd_2B[0], even_2B[1], odd_2B[1]), dim=1)


def _first_counter(token_ids_N: Tensor) -> int | None:
    """Where the range of counters begins, if most of it is wanted; None if few of it are."""
    lowest, highest = (int(bound) // _WORDS_PER_COUNTER for bound in token_ids_N.aminmax())
    return lowest if highest - lowest < token_ids_N.numel() else None


def _counters(draw: Draw, start: int | None) -> Tensor:
    ids_N = draw.token_ids_N
    if start is None:
        return ids_N // _WORDS_PER_COUNTER
    return torch.arange(start, int(ids_N.max()) // _WORDS_PER_COUNTER + 1, device=ids_N.device)


def _words(draws: Sequence[Draw], counters: list[Tensor], lengths: list[int]) -> Tensor:
    first_B = torch.cat(counters)
    each_D5 = [
        [draw.position & _WORD, draw.position >> 32, 0, draw.seed & _WORD, draw.seed >> 32]
        for draw in draws
    ]
    repeats_D = first_B.new_tensor(lengths)
    each_5B = first_B.new_tensor(each_D5).T.repeat_interleave(
        repeats_D, dim=1, output_size=first_B.numel()
    )
    return philox(torch.cat((first_B[None], each_5B[:3])), each_5B[3:])


def _pick(draw: Draw, start: int | None, words_B4: Tensor) -> Tensor:
    """One word for each token: counters are one for each token too, or a range from `start`."""
    ids_N = draw.token_ids_N
    if start is None:
        return words_B4.gather(1, (ids_N % _WORDS_PER_COUNTER)[:, None])[:, 0]
    return words_B4.flatten()[ids_N - start * _WORDS_PER_COUNTER]
