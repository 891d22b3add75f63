"""Rows of random tokens in which pieces repeat: practice in copying only.

A word in a conversation is half known, and a model that guesses completes "carpentepa…" as the
vocabulary suggests. Here guessing does not help: only what followed before can follow.
"""

import random
from collections.abc import Sequence

_POOL_SIZES = (30, 100, 400, 1500)
"""Numbers of different tokens in a row. With fewer, more context is needed to recognise a place."""
_NEW_LENGTHS = (2, 10)
_AGAIN_LENGTHS = (5, 24)
# The first tokens of a repeated piece cannot be known.
_NUM_CUES = 2


def repeats(seed: int, tokens: Sequence[int], num_tokens: int) -> tuple[list[int], list[bool]]:
    """A row of `tokens`, and for each position whether its token can be known."""
    rng = random.Random(f"repeats {seed}")
    pool = rng.sample(tokens, min(rng.choice(_POOL_SIZES), len(tokens)))
    ids = rng.choices(pool, k=max(_AGAIN_LENGTHS))
    is_known = [False] * len(ids)
    while len(ids) < num_tokens:
        fresh = rng.choices(pool, k=rng.randint(*_NEW_LENGTHS))
        first = rng.randrange(len(ids) - _NUM_CUES)
        again = ids[first : first + rng.randint(*_AGAIN_LENGTHS)]
        ids += [*fresh, *again]
        is_known += [False] * (len(fresh) + _NUM_CUES) + [True] * (len(again) - _NUM_CUES)
    return ids[:num_tokens], is_known[:num_tokens]
