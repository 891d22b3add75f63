"""Random answers of a grammar: any token that it allows may come next."""

from __future__ import annotations

import functools
import random

import numpy as np

from segue.grammar.compiler import CompiledGrammar
from segue.grammar.constraint import Constraint
from segue.text.tokens.tokenizer import Tokenizer


def end_of(tokenizer: Tokenizer) -> int:
    token_id = tokenizer.token_id("<|im_end|>")
    assert token_id is not None
    return token_id


def allowed_bits(constraint: Constraint) -> np.ndarray:
    return np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")


def allowed_ids(constraint: Constraint) -> list[int]:
    return [int(token_id) for token_id in np.nonzero(allowed_bits(constraint))[0]]


def random_answer(
    grammar: CompiledGrammar, tokenizer: Tokenizer, vocab_size: int, seed: int, *, most: int = 150
) -> str | None:
    """None if it does not end within `most` tokens. Of characters with one byte, where they are
    allowed: tokens with a part of one make text that no model would write."""
    source = random.Random(seed)
    end, plain = end_of(tokenizer), _plain(tokenizer, vocab_size)
    constraint = Constraint(vocab_size=vocab_size, end_ids=[end], grammar=grammar)
    octets = b""
    for _ in range(most):
        bits = allowed_bits(constraint)[:vocab_size]
        may_end = bool(bits[end])
        bits[end] = 0
        ids = np.nonzero(bits & plain)[0]
        ids = ids if len(ids) else np.nonzero(bits)[0]
        if may_end and (not len(ids) or source.random() < 0.7):
            return octets.decode(errors="replace")
        token_id = int(source.choice(ids))
        octets += tokenizer.token_bytes(token_id)
        constraint.take([token_id])
    return None


@functools.cache
def _plain(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    return np.array([tokenizer.token_bytes(i).isascii() for i in range(vocab_size)])
