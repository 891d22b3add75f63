"""A session of random tokens that only grows, and its expected answers.

These are what `transformers` computes for the whole history, from scratch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.api.turn import TurnEnd, Usage
from segue.api.types import StopConditions, TokenInput
from tests.cluster.conftest import LocalCluster
from tests.cluster.oracle import oracle_of

NUM_TURNS = 7
FIRST_TOKENS = 200
# An answer costs a pass for each token, a prompt one pass.
NEW_TOKENS = 57
ANSWER_TOKENS = 21


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn of a conversation: its prompt and its answer."""

    prompt: list[int]
    answer: list[int]
    end: TurnEnd

    @property
    def usage(self) -> Usage:
        return self.end.usage


async def converse(
    cluster: LocalCluster,
    num_turns: int = NUM_TURNS,
    *,
    fork_at: int | None = None,
    name: str = "parent",
    seed: int = 11,
    first_tokens: int = FIRST_TOKENS,
) -> list[TurnRecord]:
    """Turns that each extend the history. `fork_at`: that turn goes back to half of the history, as
    after a template's re-rendering, and continues under another session's name.
    """
    source = random.Random(seed)
    history = [source.randrange(5, 290) for _ in range(first_tokens)]
    session_id = name
    turns: list[TurnRecord] = []
    for index in range(num_turns):
        if index == fork_at:
            history = history[: len(history) // 2] + [source.randrange(5, 290) for _ in range(9)]
            session_id = f"{name}-child"
        answer = await cluster.client.generate(
            TokenInput(tuple(history)),
            session_id=session_id,
            stop=StopConditions(max_tokens=ANSWER_TOKENS, ignore_eos=True),
            timeout_s=60,
        )
        cluster.check_invariants()
        turns.append(TurnRecord(list(history), list(answer.token_ids), answer.end))
        history += [*answer.token_ids, *(source.randrange(5, 290) for _ in range(NEW_TOKENS))]
    return turns


async def wrong_turns(turns: Sequence[TurnRecord], folder: Path) -> list[int]:
    """The turns whose answers differ from what `transformers` computes for the whole history."""

    def look() -> list[int]:
        return oracle_of(folder).wrong([(turn.prompt, turn.answer) for turn in turns])

    # In a thread: the cluster in this process must keep sending heartbeats.
    return await asyncio.to_thread(look)
