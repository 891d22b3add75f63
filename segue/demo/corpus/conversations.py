"""Conversations to train and evaluate the demo model, each a pure function of its seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from segue.demo.corpus import exchanges, facts, tasks
from segue.demo.corpus.exchanges import DemoTurn, Exchange, Facts, Tool

Weights: TypeAlias = dict[Exchange, float]

# How often each kind of exchange occurs. Recall, the hardest to learn, is most frequent.
WEIGHTS: Weights = {
    facts.tell: 5,
    facts.tell_and_ask: 0.7,
    facts.ask: 7,
    facts.ask_all: 0.7,
    exchanges.weather: 2,
    exchanges.time: 1.5,
    exchanges.price: 1.5,
    tasks.count: 1.6,
    tasks.say: 3,
    tasks.spell: 1.2,
    tasks.story: 0.5,
    tasks.explain: 0.7,
    tasks.small_talk: 1.6,
    tasks.nonsense: 1.2,
}
# For long conversations, which have room for tools.
TOOL_WEIGHTS = WEIGHTS | {exchanges.weather: 5.0, exchanges.time: 4.0, exchanges.price: 4.0}
# For later training: the remaining errors are in stopping and spelling.
LATE_WEIGHTS = TOOL_WEIGHTS | {tasks.count: 4.0, tasks.spell: 4.0, tasks.say: 5.0}
SPELL_WEIGHTS = LATE_WEIGHTS | {tasks.spell: 14.0, tasks.say: 8.0}
LAST_WEIGHTS = LATE_WEIGHTS | {tasks.count: 7.0, tasks.say: 8.0, facts.tell: 8.0, facts.ask: 9.0}
# To learn copying, together with rows of random tokens.
COPYING_WEIGHTS = LATE_WEIGHTS | {tasks.say: 8.0, facts.tell: 8.0, facts.ask: 11.0}
# For the end: the model copies, but other skills have deteriorated.
FINAL_WEIGHTS = COPYING_WEIGHTS | {tasks.count: 8.0, tasks.spell: 5.0, tasks.story: 1.5}
POLISH_WEIGHTS = FINAL_WEIGHTS | {
    facts.tell_and_ask: 2.5,
    facts.ask_all: 3.0,
    facts.ask: 13.0,
    facts.introduce: 6.0,
    tasks.count: 9.0,
}
# For the examination: answers that can only be copied from the conversation.
COPY_WEIGHTS: Weights = {
    facts.tell: 4,
    facts.ask: 4,
    exchanges.weather: 2,
    exchanges.time: 1,
    exchanges.price: 2,
    tasks.say: 3,
}
SYSTEM_PROMPTS = ("", "", "", "You are a helpful assistant.", "Be brief.", "Answer politely.")


@dataclass(frozen=True, slots=True)
class DemoConversation:
    """A conversation's turns and the tools of its request."""

    turns: tuple[DemoTurn, ...]
    tools: tuple[Tool, ...]

    def messages(self) -> list[dict[str, object]]:
        """The turns in the format of a chat request."""
        return [turn.message() for turn in self.turns]


def conversation(
    seed: int, min_chars: int, weights: Weights = WEIGHTS, *, is_exam: bool = False
) -> DemoConversation:
    """A conversation that ends after the exchange in which its text exceeds `min_chars`.

    In an examination, the words and long numbers to copy never occur in training.
    """
    rng = random.Random(seed)
    # A tool's declaration is long and would fill a short conversation.
    num_tools = min(rng.choice((0, 0, 1, 2, 3)), min_chars // 400)
    offered = rng.sample(sorted(exchanges.TOOLS), num_tools)
    memory = Facts(tools=frozenset(offered), is_exam=is_exam)
    system = rng.choice(SYSTEM_PROMPTS)
    turns = [DemoTurn("system", system)] if system else []
    possible = {kind: share for kind, share in weights.items() if _is_possible(kind, offered)}
    kinds, shares = list(possible), list(possible.values())
    num_chars = sum(len(str(exchanges.TOOLS[name])) for name in offered)
    while num_chars < min_chars:
        invent = rng.choices(kinds, shares)[0]
        exchange = invent(rng, memory)
        turns += exchange
        # The control tokens around a turn count as about 40 characters.
        num_chars += sum(len(turn.text) + 40 for turn in exchange)
    return DemoConversation(tuple(turns), tuple(exchanges.TOOLS[name] for name in offered))


def _is_possible(kind: Exchange, offered: Sequence[str]) -> bool:
    """False for exchanges that need a tool other than the offered ones, if there are any."""
    needed = exchanges.NEEDED_TOOL.get(kind)
    return needed is None or not offered or needed in offered


def typed_conversation(
    seed: int, min_chars: int, weights: Weights = WEIGHTS, *, is_exam: bool = False
) -> DemoConversation:
    """A conversation with some of the user's turns in casual spelling: "what's my code"."""
    rng = random.Random(f"typed {seed}")
    tidy = conversation(seed, min_chars, weights, is_exam=is_exam)
    turns = [replace(t, text=_typed(rng, t.text)) if t.role == "user" else t for t in tidy.turns]
    return replace(tidy, turns=tuple(turns))


def _typed(rng: random.Random, text: str) -> str:
    if rng.random() < 0.7:
        return text
    if rng.random() < 0.5:
        text = text.replace("What is ", "What's ").replace("what is ", "what's ")
        text = text.replace("I am ", "I'm ").replace("name is ", "name's ")
    if rng.random() < 0.6:
        text = text[0].lower() + text[1:]
    return text.rstrip(".!?") if rng.random() < 0.6 else text
