"""Facts about the user: stated, recalled one by one, and listed."""

import random
from collections.abc import Mapping

from segue.demo.corpus import words
from segue.demo.corpus.exchanges import DemoTurn, Facts, digits, pair, word

# Facts with their own phrasing; all others are stated as "my … is …".
FACTS = ("name", "city", "code", "colour", "pet", "room", "age", "job", "food", "hobby")
_MORE = (
    *("friend", "brother", "sister", "boss", "teacher", "neighbour", "team", "street", "school"),
    *("password", "number", "lucky number", "train", "car", "book", "favourite song", "language"),
    *("best friend", "username", "project", "country", "dog", "company", "table", "seat", "flight"),
)
_STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "name": (
        *("my name is {}", "my name is {}", "my name is {}", "I am {}", "call me {}"),
        *("you can call me {}", "people call me {}", "I am called {}", "this is {}"),
    ),
    "city": (
        *("my city is {}", "I live in {}", "I live in {}", "I am from {}", "I come from {}"),
        *("my home is in {}", "I am in {}"),
    ),
    "code": ("my code is {}", "my code is {}", "the code is {}"),
    "colour": ("my colour is {}", "my favourite colour is {}", "I like the colour {}"),
    "pet": ("my pet is a {}", "my pet is a {}", "I have a {}"),
    "room": ("my room is {}", "my room is {}", "I am in room {}", "my room number is {}"),
    "age": ("my age is {}", "I am {} years old", "I am {} years old"),
    "job": ("my job is {}", "I work as a {}", "I am a {}"),
    "food": ("my food is {}", "my favourite food is {}", "I like to eat {}"),
    "hobby": ("my hobby is {}", "my hobby is {}", "I like {}"),
}
_QUESTIONS = (
    *("What is my {}?", "What is my {}?", "What is my {}?", "Tell me my {}.", "Say my {}."),
    *("Do you remember my {}?", "Do you know my {}?", "What was my {}?", "And what is my {}?"),
    *("Can you tell me my {}?", "My {}?", "And my {}?", "Which {} did I tell you?"),
)
_OWN_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "name": ("Who am I?", "What am I called?", "Do you know who I am?"),
    "city": ("Where do I live?", "Where am I from?", "Which city do I live in?"),
    "colour": ("What is my favourite colour?", "Which colour do I like?", "What is my color?"),
    "pet": ("Which pet do I have?", "What pet do I have?"),
    "room": ("Which room am I in?", "What is my room number?"),
    "age": ("How old am I?", "How old am I?"),
    "job": ("What do I do?", "What is my work?"),
    "food": ("What is my favourite food?", "What do I like to eat?"),
    "hobby": ("What do I like to do?",),
}
_OPENINGS = (
    *("", "", "", "", "Hi! ", "Hi, ", "Hello, ", "Hello! ", "Hey, ", "Please remember: "),
    *("Remember: ", "Remember that ", "Good morning, ", "Please note that "),
)
_POOLS: Mapping[str, tuple[str, ...]] = {
    "name": words.NAMES,
    "city": words.CITIES,
    "colour": words.COLOURS,
    "pet": words.PETS,
    "job": words.JOBS,
    "food": words.FOODS,
    "hobby": words.HOBBIES,
}


def tell(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """The user states one to three facts and the model repeats them in its own form."""
    told = _told(rng, memory)
    return pair(_statement(rng, told), f"Noted: {_listed(told)}.", "tell", tuple(told.values()))


def tell_and_ask(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """As `tell`, followed by a question about one of the facts."""
    told = _told(rng, memory)
    key = rng.choice(list(told))
    question = f"{_statement(rng, told)} {_question(rng, key)}"
    return pair(question, f"Your {_is(key, told[key])}.", "tell and ask", (told[key],))


def introduce(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """The user states only a name."""
    name = _value(rng, memory, "name")
    _keep(memory, {"name": name})
    statement = _statement(rng, {"name": name})
    return pair(statement, f"Noted: your name is {name}.", "tell", (name,))


def ask(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """The user asks for one fact, sometimes for an unknown one."""
    known = list(memory.facts)
    key = rng.choice(known) if known and rng.random() < 0.85 else rng.choice((*FACTS, *_MORE))
    question = _question(rng, key)
    if key not in memory.facts:
        return pair(question, f"I do not know your {key}.", "unknown")
    value = memory.facts[key]
    return pair(question, f"Your {_is(key, value)}.", "recall", (value,))


def ask_all(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """The user asks for everything; the answer lists the facts in the order of `Facts.facts`."""
    question = rng.choice(("What do you know about me?", "Tell me all you know about me."))
    if not memory.facts:
        return pair(question, "I know nothing about you yet.", "unknown")
    listed = _listed(memory.facts)
    answer = f"{listed[0].upper()}{listed[1:]}."
    return pair(question, answer, "recall all", tuple(memory.facts.values()))


def _told(rng: random.Random, memory: Facts) -> dict[str, str]:
    """One to three facts, mostly new ones; they are stored in `memory`."""
    unknown = [key for key in FACTS if key not in memory.facts]
    num_facts = min(rng.choice((1, 1, 1, 1, 2, 3)), len(unknown))
    keys = rng.sample(unknown, num_facts) if num_facts else [rng.choice(FACTS)]
    if rng.random() < 0.3:
        keys[-1] = _other_key(rng, memory)
    told = {key: _value(rng, memory, key) for key in keys}
    _keep(memory, told)
    return told


def _keep(memory: Facts, told: Mapping[str, str]) -> None:
    for key, value in told.items():
        memory.facts.pop(key, None)
        memory.facts[key] = value


def _other_key(rng: random.Random, memory: Facts) -> str:
    """Another possession of the user: any word, since only its place in the sentence counts."""
    if rng.random() < 0.6:
        return rng.choice(_MORE)
    key = word(rng, memory, words.ITEMS)
    return f"favourite {key}" if rng.random() < 0.2 else key


def _statement(rng: random.Random, told: Mapping[str, str]) -> str:
    """A sentence or two, such as: I am Anna and my code is 731. It may start with a greeting."""
    parts = [_stated(rng, key, value) for key, value in told.items()]
    opening = rng.choice(_OPENINGS)
    if opening[-2:-1] in ("", "!", ":"):
        parts[0] = _upper(parts[0])
    if len(parts) > 1 and rng.random() < 0.25:
        return opening + ". ".join(_upper(part) for part in parts) + "."
    return f"{opening}{_joined(parts)}."


def _stated(rng: random.Random, key: str, value: str) -> str:
    forms = _STATEMENTS.get(key)
    return rng.choice(forms).format(value) if forms else f"my {_is(key, value)}"


def _question(rng: random.Random, key: str) -> str:
    own = _OWN_QUESTIONS.get(key)
    return rng.choice(own) if own and rng.random() < 0.35 else rng.choice(_QUESTIONS).format(key)


def _value(rng: random.Random, memory: Facts, key: str) -> str:
    if key in _POOLS:
        return word(rng, memory, _POOLS[key])
    match key:
        case "code":
            return _code(rng, memory)
        case "room":
            return digits(rng, memory, rng.choice((1, 2, 2, 3))).lstrip("0") or "7"
        case "age":
            return str(rng.randint(1, 99))
    if rng.random() < 0.25:
        return _code(rng, memory)
    return word(rng, memory, rng.choice((words.NAMES, words.NAMES, words.ITEMS)))


def _code(rng: random.Random, memory: Facts) -> str:
    """Digits, sometimes with letters: 731, 90210, B27, x7f3."""
    if rng.random() < 0.8:
        return digits(rng, memory, rng.choice((2, 3, 3, 3, 4, 4, 5, 6, 8)))
    letters = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=2))
    return rng.choice(
        (
            f"{letters[0]}{rng.randint(1, 99)}",
            f"{letters}{rng.randint(1, 999)}",
            f"{letters[0]}{rng.randint(1, 99)}{letters[1]}",
        )
    )


def _is(key: str, value: str) -> str:
    return f"{key} is a {value}" if key == "pet" else f"{key} is {value}"


def _listed(facts: Mapping[str, str]) -> str:
    return _joined([f"your {_is(key, value)}" for key, value in facts.items()])


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
