"""The building blocks of a conversation, and the exchanges that call a tool.

Each function generates one exchange, a question and its answer; `facts` and `tasks` have others.

An answer depends on the conversation alone, not on chance: two equal conversations have the same
next answer, so the answers of a greedy model can be compared word for word.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from segue.demo.corpus import words

Tool = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class DemoCall:
    """One call of a tool, as the model writes it."""

    tool: str
    arguments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """One message. `copied`: the parts of an answer that occur only in this conversation."""

    role: str
    text: str
    calls: tuple[DemoCall, ...] = ()
    copied: tuple[str, ...] = ()
    task: str = ""

    def message(self) -> dict[str, object]:
        """The turn in the format of a chat request."""
        message: dict[str, object] = {"role": self.role, "content": self.text}
        if self.calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": c.tool, "arguments": dict(c.arguments)}}
                for c in self.calls
            ]
        return message


@dataclass(slots=True)
class Facts:
    """The state of the conversation: the user's facts, and the tools that may be called."""

    tools: frozenset[str]
    facts: dict[str, str] = field(default_factory=dict)
    """In the order in which they were last stated."""
    is_exam: bool = False
    """Whether the words and numbers to copy never occur in training."""


Exchange = Callable[[random.Random, Facts], list[DemoTurn]]


def tool(name: str, description: str, parameter: str) -> Tool:
    """A function with one string parameter, as a chat request declares it."""
    function = {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {parameter: {"type": "string"}},
            "required": [parameter],
        },
    }
    return {"type": "function", "function": function}


TOOLS = {
    "get_weather": tool("get_weather", "The weather in a city.", "city"),
    "get_time": tool("get_time", "The local time in a city.", "city"),
    "get_price": tool("get_price", "The price of a thing in euros.", "item"),
}


def word(rng: random.Random, memory: Facts, known: Sequence[str], share: float = 0.35) -> str:
    """One of `known`, or an invented word, capitalised if the known ones are."""
    if not memory.is_exam and rng.random() < share:
        return rng.choice(known)
    made = words.invented(rng, held_out=memory.is_exam)
    if not known[0][0].isupper() or rng.random() < 0.1:
        return made
    style = rng.random()
    if style < 0.05:
        return made.upper()
    if style < 0.15:
        return f"{made.capitalize()} {words.invented(rng, held_out=memory.is_exam).capitalize()}"
    return made.capitalize()


def digits(rng: random.Random, memory: Facts, num_digits: int) -> str:
    """A row of digits; with four or more digits, some rows are reserved for the examination."""
    while True:
        row = "".join(rng.choices("0123456789", k=num_digits))
        if num_digits < 4 or words.is_held_out(row) == memory.is_exam:
            return row


def weather(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """A question that needs `get_weather`, with the result in a sentence."""
    city = word(rng, memory, words.CITIES)
    question = rng.choice(_WEATHER).format(city)
    degrees = str(rng.randint(-30, 45))
    if rng.random() < 0.15:
        degrees += f".{rng.randint(0, 9)}"
    sky = word(rng, memory, words.SKIES, 0.6)
    result: dict[str, object] = {"temperature": json.loads(degrees), "sky": sky}
    if rng.random() < 0.2:
        result = dict(reversed(result.items()))
    answer = f"In {city} it is {degrees} degrees and {sky}."
    call = DemoCall("get_weather", {"city": city})
    return _with_tool(memory, question, call, _json(rng, result), answer, (city, degrees, sky))


def time(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """A question that needs `get_time`."""
    city = word(rng, memory, words.CITIES)
    question = rng.choice(_TIME).format(city)
    clock = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    answer = f"In {city} it is {clock}."
    call = DemoCall("get_time", {"city": city})
    return _with_tool(memory, question, call, _json(rng, {"time": clock}), answer, (city, clock))


def price(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """A question that needs `get_price`."""
    item = word(rng, memory, words.ITEMS)
    question = rng.choice(_PRICE).format(item)
    euros = digits(rng, memory, rng.choice((1, 2, 3, 4))).lstrip("0") or "2"
    if rng.random() < 0.15:
        euros += f".{rng.randint(1, 9)}"
    answer = f"A {item} costs {euros} euros."
    call = DemoCall("get_price", {"item": item})
    result = _json(rng, {"price": json.loads(euros)})
    return _with_tool(memory, question, call, result, answer, (item, euros))


def pair(question: str, answer: str, task: str, copied: tuple[str, ...] = ()) -> list[DemoTurn]:
    """A question and its answer."""
    return [DemoTurn("user", question), DemoTurn("assistant", answer, (), copied, task)]


NEEDED_TOOL: Mapping[Exchange, str] = {
    weather: "get_weather",
    time: "get_time",
    price: "get_price",
}
_WEATHER = (
    "What is the weather in {}?",
    "What is the weather in {}?",
    "What is the weather like in {}?",
    "How is the weather in {}?",
    "How is the weather in {} today?",
    "Tell me the weather in {}.",
    "What is the temperature in {}?",
    "How warm is it in {}?",
    "Is it warm in {}?",
    "Is it cold in {}?",
    "Is it raining in {}?",
    "And in {}? How is the weather?",
)
_TIME = (
    "What time is it in {}?",
    "What time is it in {}?",
    "What time is it now in {}?",
    "What is the time in {}?",
    "Tell me the time in {}.",
    "How late is it in {}?",
)
_PRICE = (
    "How much is a {}?",
    "What does a {} cost?",
    "How much does a {} cost?",
    "What is the price of a {}?",
    "Tell me the price of a {}.",
)


def _with_tool(
    memory: Facts, question: str, call: DemoCall, result: str, answer: str, copied: tuple[str, ...]
) -> list[DemoTurn]:
    if call.tool not in memory.tools:
        return pair(question, "I have no tool for that.", "no tool")
    return [
        DemoTurn("user", question),
        DemoTurn("assistant", "", (call,), tuple(call.arguments.values()), "tool call"),
        DemoTurn("tool", result),
        DemoTurn("assistant", answer, (), copied, "tool result"),
    ]


def _json(rng: random.Random, result: Mapping[str, object]) -> str:
    """A tool's result, mostly with spaces after the separators, as Python writes it."""
    separators = (",", ":") if rng.random() < 0.3 else None
    return json.dumps(result, separators=separators)
