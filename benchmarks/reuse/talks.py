"""An agent's conversations: questions, reasoning, calls and their results."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from segue.api.types import ChatInput, Message, ToolCall

NUM_TURNS = 12

_TEXT = "the train to Paris leaves at noon and arrives in time for a walk by the river"
_WORDS = _TEXT.split()
_TOOL = json.dumps(
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "When a train leaves.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
)


def talk(
    seed: int, *, num_more: int, enable_thinking: bool, num_turns: int = NUM_TURNS
) -> Iterator[ChatInput]:
    """The input of each turn. `num_more` words are added to the first question; `seed` changes only
    what follows it.
    """
    first, rng = random.Random(0), random.Random(seed)
    question = f"When may I go to Paris?{' yes' * num_more}"
    messages = [
        Message(role="system", content=_words(first, 90)),
        Message(role="user", content=f"{_words(first, 60)} {question}"),
    ]
    for _ in range(num_turns):
        yield ChatInput(messages=tuple(messages), tools=(_TOOL,), enable_thinking=enable_thinking)
        messages += _answer_and_more(rng)


def _answer_and_more(rng: random.Random) -> list[Message]:
    reasoning = _words(rng, rng.randrange(1, 40)) if rng.random() < 0.7 else ""
    if rng.random() < 0.4:
        answer = Message(role="assistant", content=_words(rng, 20), reasoning=reasoning)
        return [answer, Message(role="user", content=_words(rng, rng.randrange(1, 50)))]
    calls = tuple(
        ToolCall(
            name="look_up", arguments=json.dumps({"city": rng.choice(_WORDS)}), call_id=f"c{i}"
        )
        for i in range(rng.choice((1, 1, 2)))
    )
    content = _words(rng, 5) if rng.random() < 0.3 else ""
    called = Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)
    given = [
        Message(role="tool", content=_words(rng, rng.randrange(1, 60)), tool_call_id=call.call_id)
        for call in calls
    ]
    return [called, *given]


def _words(rng: random.Random, number: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(number))
