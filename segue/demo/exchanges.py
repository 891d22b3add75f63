"""What the demo model can talk about: each function invents one exchange, question and answer.

An answer follows from the conversation alone, never from chance: two equal conversations have the
same next answer, so a greedy model that learnt the corpus can be compared word for word.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from segue.demo import words
from segue.demo.sayings import EXPLAINED, SMALL_TALK

Tool = Mapping[str, object]

FACTS = ("name", "city", "code", "colour", "pet", "room")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, as the model writes it."""

    tool: str
    arguments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `copied` are the parts of an answer that occur only in this conversation."""

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    copied: tuple[str, ...] = ()
    task: str = ""

    def message(self) -> dict[str, object]:
        """The turn in the shape of a chat request."""
        message: dict[str, object] = {"role": self.role, "content": self.text}
        if self.calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": c.tool, "arguments": dict(c.arguments)}}
                for c in self.calls
            ]
        return message


@dataclass(slots=True)
class Memory:
    """What was said so far: the user's facts, and the tools that may be called."""

    tools: frozenset[str]
    facts: dict[str, str] = field(default_factory=dict)


Exchange = Callable[[random.Random, Memory], list[Turn]]


def tool(name: str, description: str, parameter: str) -> Tool:
    """A function of one string, as a chat request declares it."""
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


def tell(rng: random.Random, memory: Memory) -> list[Turn]:
    """The user states one to three facts and the model repeats them in its own form."""
    unknown = [key for key in FACTS if key not in memory.facts]
    keys = (
        rng.sample(FACTS, 1) if not unknown else rng.sample(unknown, min(_few(rng), len(unknown)))
    )
    told = {key: _value(rng, key) for key in keys}
    memory.facts.update(told)
    if len(told) == 1:
        statement = rng.choice(_STATEMENTS[keys[0]]).format(told[keys[0]])
    else:
        statement = _listed([f"my {_is(key, told[key])}" for key in keys])
    opening = rng.choice(("", "", "", "Hi! ", "Hi, ", "Hello, ", "Please remember: ", "Remember: "))
    answer = "Noted: " + _listed([f"your {_is(key, told[key])}" for key in keys]) + "."
    if not opening.endswith(", "):
        statement = statement[0].upper() + statement[1:]
    question = f"{opening}{statement}."
    return _pair(question, answer, "tell", tuple(told.values()))


def ask(rng: random.Random, memory: Memory) -> list[Turn]:
    """The user asks for one fact, now and then for one that was never told."""
    known = list(memory.facts)
    key = rng.choice(known) if known and rng.random() < 0.85 else rng.choice(FACTS)
    question = rng.choice(_QUESTIONS).format(key)
    if key not in memory.facts:
        return _pair(question, f"I do not know your {key}.", "unknown")
    value = memory.facts[key]
    return _pair(question, f"Your {_is(key, value)}.", "recall", (value,))


def ask_all(rng: random.Random, memory: Memory) -> list[Turn]:
    """The user asks for everything; the answer lists the facts in the order of `FACTS`."""
    question = rng.choice(("What do you know about me?", "Tell me all you know about me."))
    known = {key: memory.facts[key] for key in FACTS if key in memory.facts}
    if not known:
        return _pair(question, "I know nothing about you yet.", "unknown")
    listed = _listed([f"your {_is(key, value)}" for key, value in known.items()])
    return _pair(question, f"{listed[0].upper()}{listed[1:]}.", "recall all", tuple(known.values()))


def weather(rng: random.Random, memory: Memory) -> list[Turn]:
    """A question that needs `get_weather`, with the result said in a sentence."""
    city = rng.choice(words.CITIES)
    question = rng.choice(
        ("What is the weather in {}?", "How is the weather in {}?", "Is it warm in {}?")
    ).format(city)
    degrees, sky = str(rng.randint(-9, 39)), rng.choice(words.SKIES)
    result = {"temperature": int(degrees), "sky": sky}
    answer = f"In {city} it is {degrees} degrees and {sky}."
    call = Call("get_weather", {"city": city})
    return _with_tool(memory, question, call, _json(rng, result), answer, (city, degrees, sky))


def time(rng: random.Random, memory: Memory) -> list[Turn]:
    """A question that needs `get_time`."""
    city = rng.choice(words.CITIES)
    question = rng.choice(("What time is it in {}?", "Tell me the time in {}.")).format(city)
    clock = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    answer = f"In {city} it is {clock}."
    call = Call("get_time", {"city": city})
    return _with_tool(memory, question, call, _json(rng, {"time": clock}), answer, (city, clock))


def price(rng: random.Random, memory: Memory) -> list[Turn]:
    """A question that needs `get_price`."""
    item = rng.choice(words.ITEMS)
    question = rng.choice(("How much is a {}?", "What does a {} cost?")).format(item)
    euros = str(rng.randint(2, 999))
    answer = f"A {item} costs {euros} euros."
    call = Call("get_price", {"item": item})
    result = _json(rng, {"price": int(euros)})
    return _with_tool(memory, question, call, result, answer, (item, euros))


def count(rng: random.Random, memory: Memory) -> list[Turn]:
    """Counting from one number to another."""
    first = rng.randint(1, 40)
    last = first + rng.randint(2, 14)
    numbers = ", ".join(str(n) for n in range(first, last + 1))
    return _pair(f"Count from {first} to {last}.", f"{numbers}.", "count")


def say(rng: random.Random, memory: Memory) -> list[Turn]:
    """Repeating a word, which may be one that does not exist."""
    word = rng.choice((rng.choice(words.ITEMS), words.invented(rng)))
    times = rng.choice((1, 1, 2, 3, 4, 5))
    if times == 1:
        question = rng.choice(("Say {}.", "Repeat the word {}.", "Please say {}.")).format(word)
    else:
        question = f"Say {word} {times} times."
    return _pair(question, f"You said {', '.join([word] * times)}.", "say", (word,) * times)


def spell(rng: random.Random, memory: Memory) -> list[Turn]:
    """Spelling a word the model has by heart."""
    word = rng.choice((rng.choice(words.ITEMS), rng.choice(words.PETS)))
    return _pair(f"Spell {word}.", f"{', '.join(word)}.", "spell")


def story(rng: random.Random, memory: Memory) -> list[Turn]:
    """A long answer that names its hero again and again."""
    hero, item, city = rng.choice(words.PETS), rng.choice(words.ITEMS), rng.choice(words.CITIES)
    question = f"Tell me a story about a {hero} and a {item} in {city}."
    answer = (
        f"Once upon a time there was a {hero} in {city}. The {hero} had a {item}. "
        f"One day the {item} was gone. The {hero} looked all over {city}, high and low, "
        f"but there was no {item}. Then the {hero} went home and sat down, "
        f"and there it was: the {item}! So the {hero} was happy, and all of {city} was happy too."
    )
    return _pair(question, answer, "story", (hero, item, city) * 2)


def explain(rng: random.Random, memory: Memory) -> list[Turn]:
    """A fixed explanation of a word of the glossary."""
    term = rng.choice(list(EXPLAINED))
    return _pair(f"What is {term}?", EXPLAINED[term], "explain")


def small_talk(rng: random.Random, memory: Memory) -> list[Turn]:
    """Greetings, thanks and other questions with one fixed answer."""
    question = rng.choice(list(SMALL_TALK))
    return _pair(question, SMALL_TALK[question], "small talk")


def nonsense(rng: random.Random, memory: Memory) -> list[Turn]:
    """Something the model was never taught."""
    word = rng.choice((rng.choice(words.ITEMS), words.invented(rng)))
    question = rng.choice(
        ("What is {}?", "Why is {} so {}?", "Do you like {}?", "Write a poem about {}.", "{} {}.")
    ).format(word, words.invented(rng))
    answer = "I am only a small demo model and cannot answer that."
    return _pair(question[0].upper() + question[1:], answer, "nonsense")


NEEDED_TOOL: Mapping[Exchange, str] = {
    weather: "get_weather",
    time: "get_time",
    price: "get_price",
}
_STATEMENTS = {
    "name": ("my name is {}", "my name is {}", "I am {}", "call me {}"),
    "city": ("my city is {}", "my city is {}", "I live in {}", "I am from {}"),
    "code": ("my code is {}", "my code is {}", "the code is {}"),
    "colour": ("my colour is {}", "my favourite colour is {}", "I like the colour {}"),
    "pet": ("my pet is a {}", "my pet is a {}", "I have a {}"),
    "room": ("my room is {}", "my room is {}", "I am in room {}"),
}
_QUESTIONS = ("What is my {}?", "What is my {}?", "Tell me my {}.", "Do you remember my {}?")


def _value(rng: random.Random, key: str) -> str:
    match key:
        case "name":
            known = rng.random() < 0.75
            return rng.choice(words.NAMES) if known else words.invented(rng).capitalize()
        case "city":
            return rng.choice(words.CITIES)
        case "code":
            num_digits = rng.choice((3, 3, 4))
            return "".join(rng.choices("0123456789", k=num_digits))
        case "colour":
            return rng.choice(words.COLOURS)
        case "pet":
            return rng.choice(words.PETS)
        case _:
            return str(rng.randint(2, 99))


def _with_tool(
    memory: Memory, question: str, call: Call, result: str, answer: str, copied: tuple[str, ...]
) -> list[Turn]:
    if call.tool not in memory.tools:
        return _pair(question, "I have no tool for that.", "no tool")
    return [
        Turn("user", question),
        Turn("assistant", "", (call,), tuple(call.arguments.values()), "tool call"),
        Turn("tool", result),
        Turn("assistant", answer, (), copied, "tool result"),
    ]


def _pair(question: str, answer: str, task: str, copied: tuple[str, ...] = ()) -> list[Turn]:
    return [Turn("user", question), Turn("assistant", answer, (), copied, task)]


def _is(key: str, value: str) -> str:
    return f"{key} is a {value}" if key == "pet" else f"{key} is {value}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _few(rng: random.Random) -> int:
    return rng.choice((1, 1, 1, 2, 3))


def _json(rng: random.Random, result: Mapping[str, object]) -> str:
    """A tool's answer, mostly with spaces after the separators as Python writes it."""
    separators = (",", ":") if rng.random() < 0.2 else None
    return json.dumps(result, separators=separators)
