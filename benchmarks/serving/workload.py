"""The requests to both sides: prompt lengths, answer lengths, concurrent turns, repetitions.

Rounds are interleaved: every round sends the same prompts to the cluster and to the peer, one right
after the other, in alternating order, so that other load on the machine affects both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    prompt_lengths: tuple[int, ...]
    """In tokens. One turn of each, alone, per round."""
    answer_tokens: int
    turns_together: tuple[int, ...]
    """Numbers of turns sent at once."""
    together_prompt_tokens: int
    """Short, so that all turns are decoding most of the time."""
    together_answer_tokens: int
    rounds: int
    router_pairs: int
    """Turns that bypass the router, each paired with one through it."""

    def __post_init__(self) -> None:
        if self.answer_tokens < 2 or self.together_answer_tokens < 2:
            raise ValueError("an answer of one token has no decode speed")

    @property
    def max_turns(self) -> int:
        return max(self.turns_together)

    def prompt(self, num_tokens: int, *, number: int, vocab_size: int) -> Prompt:
        """The same arguments give the same tokens; no two numbers share a prefix to reuse."""
        draw = random.Random(f"{number}/{num_tokens}")
        return tuple(draw.randrange(vocab_size) for _ in range(num_tokens))


FULL = Workload(
    prompt_lengths=(32, 512, 2048),
    answer_tokens=33,
    turns_together=(4, 8),
    together_prompt_tokens=32,
    together_answer_tokens=65,
    rounds=5,
    router_pairs=20,
)
QUICK = Workload(
    prompt_lengths=(32, 200),
    answer_tokens=9,
    turns_together=(2,),
    together_prompt_tokens=16,
    together_answer_tokens=17,
    rounds=1,
    router_pairs=2,
)
