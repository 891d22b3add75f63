"""A conversation as token ids, with answers and copied parts marked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from segue.demo.corpus.conversations import DemoConversation, conversation
from segue.demo.tokenizer import IM_END, IM_START, render

_NO_ANSWER = -1


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a rendered conversation. `answer` and `is_copied` have one entry per token."""

    ids: tuple[int, ...]
    # The answer that the token belongs to, including its end token; -1 for none.
    answer: tuple[int, ...]
    # Whether the token is part of a value that only the conversation contains.
    is_copied: tuple[bool, ...]
    # The task of each answer.
    tasks: tuple[str, ...]


def encode(tokenizer: Tokenizer, conversation: DemoConversation) -> Example:
    """The rendered and tokenised conversation, with every answer marked."""
    text = render(conversation)
    answer_at, copied_at = [_NO_ANSWER] * len(text), [False] * len(text)
    answers = [turn for turn in conversation.turns if turn.role == "assistant"]
    for index, (turn, (start, end)) in enumerate(zip(answers, _answer_spans(text), strict=True)):
        answer_at[start:end] = [index] * (end - start)
        for first, last in _copied_spans(text, start, turn.copied):
            copied_at[first:last] = [True] * (last - first)
    encoding = tokenizer.encode(text)
    ends = [end - 1 for _, end in encoding.offsets]
    return Example(
        ids=tuple(encoding.ids),
        answer=tuple(answer_at[end] for end in ends),
        is_copied=tuple(copied_at[end] for end in ends),
        tasks=tuple(turn.task for turn in answers),
    )


def tokenizer_texts(num_conversations: int) -> list[str]:
    """The texts from which merges are learnt."""
    return [render(conversation(seed, 1200)) for seed in range(num_conversations)]


def _answer_spans(text: str) -> list[tuple[int, int]]:
    spans, end = [], 0
    opening = f"{IM_START}assistant\n"
    while (start := text.find(opening, end)) >= 0:
        start += len(opening)
        end = text.index(IM_END, start) + len(IM_END)
        spans.append((start, end))
    return spans


def _copied_spans(text: str, start: int, copied: Sequence[str]) -> list[tuple[int, int]]:
    """The spans of the copied parts, in the order of the answer that starts at `start`."""
    spans = []
    for part in copied:
        first = text.index(part, start)
        start = first + len(part)
        spans.append((first, start))
    return spans


_POOL_SIZES = (30, 100, 400, 1500)
"""Numbers of different tokens in a row. With fewer, recognising a place needs more context."""
_NEW_LENGTHS = (2, 10)
_AGAIN_LENGTHS = (5, 24)
# The first tokens of a repeated piece cannot be predicted.
_NUM_CUES = 2


def repeats(seed: int, tokens: Sequence[int], num_tokens: int) -> tuple[list[int], list[bool]]:
    """A row of `tokens`, and for each position whether its token can be predicted."""
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
