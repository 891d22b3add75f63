"""The demo model's tasks without facts and tools: count, repeat, spell, explain, decline."""

import random

from segue.demo.corpus import words
from segue.demo.corpus.exchanges import DemoTurn, Facts, digits, pair, word
from segue.demo.corpus.sayings import EXPLAINED, OTHER_QUESTIONS, SMALL_TALK

MAX_NUMBER = 130
_COUNT = (
    *("Count from {} to {}.", "Count from {} to {}.", "Count from {} to {}.", "Count {} to {}."),
    *("Please count from {} to {}.", "Can you count from {} to {}?", "Count up from {} to {}."),
)
_COUNT_STEPS = ((1, 8), (1, 8), (2, 14), (2, 14), (2, 14), (2, 14), (10, 60), (40, 110))
_COUNT_TO = ("Count to {}.", "Count to {}.", "Please count to {}.", "Can you count to {}?")
_SAY = (
    *("Say {}.", "Say {}.", "Repeat {}.", "Repeat the word {}.", "Please say {}."),
    *("Say the word {}.", "Repeat after me: {}.", "Can you say {}?"),
)
_SPELL = (
    "Spell {}.",
    "Spell {}.",
    "Spell the word {}.",
    "How do you spell {}?",
    "Please spell {}.",
)
_STORY = (
    "Tell me a story about a {} and a {} in {}.",
    "Tell me a story about a {} and a {} in {}.",
    "Tell a story about a {} and a {} in {}.",
)


def count(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """Counting from one number to another."""
    # Mostly short: the model learns to stop once per answer, regardless of its length.
    num_steps = rng.randint(*rng.choice(_COUNT_STEPS))
    if rng.random() < 0.2:
        first, last = 1, 1 + num_steps
        question = rng.choice(_COUNT_TO).format(last)
    else:
        latest = MAX_NUMBER - num_steps
        high = rng.randint(min(80, latest), latest)
        first = rng.choice((1, rng.randint(0, 20), rng.randint(0, latest), high))
        last = first + num_steps
        question = rng.choice(_COUNT).format(first, last)
    numbers = ", ".join(str(n) for n in range(first, last + 1))
    return pair(question, f"{numbers}.", "count")


def say(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """Repeating words, possibly invented ones, or a number."""
    times = rng.choice((1, 1, 1, 2, 3, 4, 5))
    if times > 1:
        said = word(rng, memory, rng.choice((words.ITEMS, words.NAMES)), 0.3)
        question = f"Say {said} {times} times."
    else:
        said = _to_say(rng, memory)
        question = rng.choice(_SAY).format(said)
    return pair(question, f"You said {', '.join([said] * times)}.", "say", (said,) * times)


def _to_say(rng: random.Random, memory: Facts) -> str:
    if rng.random() < 0.2:
        return digits(rng, memory, rng.randint(1, 9))
    pool = rng.choice((words.ITEMS, words.COMMON, words.NAMES))
    return " ".join(word(rng, memory, pool, 0.3) for _ in range(rng.choice((1, 1, 1, 2, 3, 4))))


def spell(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """Spelling a word, for which the model must memorise the letters of its pieces."""
    known = rng.choice((words.ITEMS, words.ITEMS, words.PETS, words.PETS, words.NAMES))
    spelt = word(rng, memory, known, 0.9).split()[0]
    return pair(rng.choice(_SPELL).format(spelt), f"{', '.join(spelt)}.", "spell")


def story(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """A long answer that repeats its hero's name."""
    hero = word(rng, memory, words.PETS, 0.5)
    item = word(rng, memory, words.ITEMS, 0.5)
    city = word(rng, memory, words.CITIES, 0.5)
    answer = (
        f"Once upon a time there was a {hero} in {city}. The {hero} had a {item}. "
        f"One day the {item} was gone. The {hero} looked all over {city}, high and low, "
        f"but there was no {item}. Then the {hero} went home and sat down, "
        f"and there it was: the {item}! So the {hero} was happy, and all of {city} was happy too."
    )
    question = rng.choice(_STORY).format(hero, item, city)
    copied = (hero, city, hero, item, item, hero, city, item, hero, item, hero, city)
    return pair(question, answer, "story", copied)


def explain(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """A fixed explanation of a glossary term."""
    term = rng.choice(list(EXPLAINED))
    question = rng.choice(("What is {}?", "What is {}?", "Explain {}.", "Tell me what {} is."))
    return pair(question.format(term), EXPLAINED[term], "explain")


def small_talk(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """Greetings, thanks and other questions with one fixed answer."""
    question = rng.choice(list(SMALL_TALK))
    return pair(question, SMALL_TALK[question], "small talk")


def nonsense(rng: random.Random, memory: Facts) -> list[DemoTurn]:
    """A question outside the model's tasks."""
    template = rng.choice(OTHER_QUESTIONS)
    slots = [word(rng, memory, words.KNOWN[-200:], 0.5) for _ in range(template.count("{}"))]
    question = template.format(*slots)
    answer = "I am only a small demo model and cannot answer that."
    return pair(question[0].upper() + question[1:], answer, "nonsense")
