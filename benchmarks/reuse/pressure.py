"""Many sessions in few slots: how much of their prompts is computed again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.reuse.prefill_side import PrefillSide
from benchmarks.reuse.sweep import Reuse, num_shared

_OPENING = list(range(1000, 1300))
_HEADER, _REST = [1, 2, 3], [4, 5]
"""The generation prompt: the template keeps the first part, and rewrites the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    num_slots: int
    num_sessions: int
    turns: Sequence[Reuse]

    @property
    def missed_turns(self) -> int:
        return sum(turn.missed_tokens > 0 for turn in self.turns)

    @property
    def missed_tokens(self) -> int:
        return sum(turn.missed_tokens for turn in self.turns)


@dataclass(slots=True)
class _Session:
    history: list[int]
    last: list[int] = field(default_factory=list)


async def press(*, num_slots: int, num_sessions: int, num_turns: int) -> Pressure:
    """Sessions alternate: the next one is the one that was idle the longest."""
    rng = random.Random(1)

    def tokens(at_least: int, less_than: int) -> list[int]:
        return [rng.randrange(2000, 9000) for _ in range(rng.randrange(at_least, less_than))]

    sessions = [_Session([*_OPENING, *tokens(150, 250)]) for _ in range(num_sessions)]
    turns = []
    async with PrefillSide(num_slots=num_slots) as side:
        for turn in range(1, num_turns + 1):
            for number, session in enumerate(sessions):
                prompt = [*session.history, *_HEADER, *_REST]
                points = (len(_OPENING), len(prompt) - len(_REST))
                cached = side.serve(prompt, points, f"session-{number}")
                if turn > 1:
                    turns.append(
                        Reuse(
                            first_tokens=0,
                            turn=turn,
                            prompt_tokens=len(prompt),
                            shared_tokens=num_shared(session.last, prompt),
                            cached_tokens=cached,
                        )
                    )
                session.last = prompt
                session.history += [*_HEADER, *tokens(20, 150)]
    return Pressure(num_slots=num_slots, num_sessions=num_sessions, turns=turns)
