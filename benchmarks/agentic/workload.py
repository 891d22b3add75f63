"""The published agentic workload, scaled: session starts, messages and pauses. Pure.

A first turn of 50,000 tokens, then 10 to 15 turns of 800 new tokens with answers of a few hundred.
Everything is drawn from the seed before the first request, so all modes get the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PUBLISHED_FIRST_TOKENS = 50_000
PUBLISHED_NEW_TOKENS = 800
PUBLISHED_ANSWER_TOKENS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    new_tokens: tuple[int, ...]
    """Appended to the conversation so far."""
    pause_s: float
    """From the previous answer to this turn: a tool runs, or a person thinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The user's part of one session."""

    name: str
    starts_at_s: float
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    scale: float
    """Factor for all token counts, relative to the published ones."""
    sessions: int
    later_turns: tuple[int, int]
    """Minimum and maximum, after the first turn; sessions differ."""
    arrival_gap_s: float
    """Mean time between two sessions' starts, whether or not others have ended."""
    tool_s: float
    """Mean pause before a turn that brings a tool's result."""
    think_s: float
    """Mean pause before a turn that a person wrote."""
    think_share: float
    """The share of later turns that a person wrote."""
    seed: int

    @property
    def first_tokens(self) -> int:
        return max(round(PUBLISHED_FIRST_TOKENS * self.scale), 1)

    @property
    def new_tokens(self) -> int:
        return max(round(PUBLISHED_NEW_TOKENS * self.scale), 1)

    @property
    def answer_tokens(self) -> int:
        # A single token has no inter-token latency.
        return max(round(PUBLISHED_ANSWER_TOKENS * self.scale), 2)

    def scripts(self, *, vocab_size: int, prefix: str = "agent") -> tuple[Script, ...]:
        draw = random.Random(self.seed)
        scripts, starts_at_s = [], 0.0
        for index in range(self.sessions):
            count = draw.randint(*self.later_turns)
            turns = [Turn(new_tokens=_tokens(draw, self.first_tokens, vocab_size), pause_s=0.0)]
            for _ in range(count):
                mean_s = self.think_s if draw.random() < self.think_share else self.tool_s
                pause_s = draw.expovariate(1 / mean_s)
                new_tokens = _tokens(draw, self.new_tokens, vocab_size)
                turns.append(Turn(new_tokens=new_tokens, pause_s=pause_s))
            scripts.append(
                Script(name=f"{prefix}-{index}", starts_at_s=starts_at_s, turns=tuple(turns))
            )
            starts_at_s += draw.expovariate(1 / self.arrival_gap_s)
        return tuple(scripts)


def _tokens(draw: random.Random, count: int, vocab_size: int) -> tuple[int, ...]:
    return tuple(draw.randrange(vocab_size) for _ in range(count))
