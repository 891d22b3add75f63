"""Every length of a first prompt modulo the page, and the turns after it, compared with
the bound.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.reuse.prefill_side import PrefillSide
from benchmarks.reuse.talks import NUM_TURNS, talk
from segue.api.types import TokenInput, TurnInput
from segue.text.prompt import PromptEncoder

PAGE_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """The reuse of one turn."""

    first_tokens: int
    """Tokens of the session's first prompt."""
    turn: int
    """2 for the second turn."""
    prompt_tokens: int
    shared_tokens: int
    """Tokens shared with the previous turn's prompt: those that the template did not rewrite."""
    cached_tokens: int

    @property
    def bound(self) -> int:
        """The last page boundary within the shared tokens. The last token is always computed."""
        usable = min(self.shared_tokens, self.prompt_tokens - 1)
        return usable // PAGE_TOKENS * PAGE_TOKENS

    @property
    def missed_tokens(self) -> int:
        return max(self.bound - self.cached_tokens, 0)


async def sweep_chats(
    encoder: PromptEncoder,
    *,
    enable_thinking: bool,
    first_words: Iterable[int] = range(PAGE_TOKENS),
    num_turns: int = NUM_TURNS,
) -> list[Reuse]:
    """Each further word adds a token, so the first prompts cover all lengths."""
    turns = []
    for num_more in first_words:
        chats = talk(
            num_more, num_more=num_more, enable_thinking=enable_thinking, num_turns=num_turns
        )
        turns += await follow(encoder, list(chats))
    return turns


async def sweep_ids(encoder: PromptEncoder) -> list[Reuse]:
    """Token ids without messages, of every length: the same prompt again, and extended."""
    turns = []
    for num_more in range(PAGE_TOKENS):
        rng = random.Random(num_more)
        prompt = [rng.randrange(1000, 2000) for _ in range(1024 + num_more)]
        prompts = [prompt, prompt, [*prompt, 5], [*prompt, *range(1, 90)]]
        turns += await follow(encoder, [TokenInput(tuple(ids)) for ids in prompts])
    return turns


async def follow(encoder: PromptEncoder, inputs: Sequence[TurnInput]) -> list[Reuse]:
    """One session's turns from the second on, on a prefill worker that has served nothing else."""
    prompts = [encoder.encode(turn_input) for turn_input in inputs]
    turns = []
    async with PrefillSide() as side:
        for index, (turn_input, prompt) in enumerate(zip(inputs, prompts, strict=True)):
            cached = side.serve(prompt, encoder.branch_points(prompt, turn_input))
            if index:
                turns.append(
                    Reuse(
                        first_tokens=len(prompts[0]),
                        turn=index + 1,
                        prompt_tokens=len(prompt),
                        shared_tokens=num_shared(prompts[index - 1], prompt),
                        cached_tokens=cached,
                    )
                )
    return turns


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
