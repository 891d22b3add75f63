"""Conversations to train and to judge the demo model on, each a pure function of its seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from segue.demo import exchanges
from segue.demo.exchanges import Exchange, Memory, Tool, Turn

Weights: TypeAlias = dict[Exchange, float]

# How often each kind of exchange comes up. Recall, which is hardest to learn, comes up most.
WEIGHTS: Weights = {
    exchanges.tell: 5,
    exchanges.ask: 7,
    exchanges.ask_all: 1,
    exchanges.weather: 2,
    exchanges.time: 1.5,
    exchanges.price: 1.5,
    exchanges.count: 2,
    exchanges.say: 2,
    exchanges.spell: 1,
    exchanges.story: 0.6,
    exchanges.explain: 0.8,
    exchanges.small_talk: 1.6,
    exchanges.nonsense: 0.8,
}
# For long conversations, in which there is room for tools.
TOOL_WEIGHTS = WEIGHTS | {exchanges.weather: 5.0, exchanges.time: 4.0, exchanges.price: 4.0}
SYSTEM_PROMPTS = ("", "", "", "You are a helpful assistant.", "Be brief.", "Answer politely.")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a conversation and the tools its request would offer."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...]

    def messages(self) -> list[dict[str, object]]:
        """The turns in the shape of a chat request."""
        return [turn.message() for turn in self.turns]


def conversation(seed: int, min_chars: int, weights: Weights = WEIGHTS) -> Conversation:
    """A conversation that stops after the exchange in which its text passes `min_chars`."""
    rng = random.Random(seed)
    # A tool's declaration is long: a short conversation would be nothing else.
    num_tools = min(rng.choice((0, 0, 1, 2, 3)), min_chars // 400)
    offered = rng.sample(sorted(exchanges.TOOLS), num_tools)
    memory = Memory(tools=frozenset(offered))
    system = rng.choice(SYSTEM_PROMPTS)
    turns = [Turn("system", system)] if system else []
    asked = {kind: share for kind, share in weights.items() if _may_be_asked(kind, offered)}
    kinds, shares = list(asked), list(asked.values())
    num_chars = sum(len(str(exchanges.TOOLS[name])) for name in offered)
    while num_chars < min_chars:
        invent = rng.choices(kinds, shares)[0]
        exchange = invent(rng, memory)
        turns += exchange
        # The control tokens around a turn read as some 40 characters.
        num_chars += sum(len(turn.text) + 40 for turn in exchange)
    return Conversation(tuple(turns), tuple(exchanges.TOOLS[name] for name in offered))


def _may_be_asked(kind: Exchange, offered: Sequence[str]) -> bool:
    """Whether a request would ask this: with some tools offered, nobody asks for the others."""
    needed = exchanges.NEEDED_TOOL.get(kind)
    return needed is None or not offered or needed in offered


def typed_conversation(seed: int, min_chars: int, weights: Weights = WEIGHTS) -> Conversation:
    """The same conversation, some of the user's turns as people type them: "what's my code"."""
    rng = random.Random(f"typed {seed}")
    tidy = conversation(seed, min_chars, weights)
    turns = [replace(t, text=_typed(rng, t.text)) if t.role == "user" else t for t in tidy.turns]
    return replace(tidy, turns=tuple(turns))


def _typed(rng: random.Random, text: str) -> str:
    if rng.random() < 0.7:
        return text
    if rng.random() < 0.5:
        text = text.replace("What is ", "What's ")
    if rng.random() < 0.6:
        text = text[0].lower() + text[1:]
    return text.rstrip(".!?") if rng.random() < 0.6 else text
