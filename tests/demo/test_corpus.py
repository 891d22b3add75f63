"""The generated conversations: repeatable, and with one right answer."""

import random
import re
from itertools import pairwise

import pytest

from segue.demo.corpus import tasks
from segue.demo.corpus.conversations import COPY_WEIGHTS, DemoConversation, conversation
from segue.demo.corpus.exchanges import Facts
from segue.demo.corpus.facts import FACTS
from segue.demo.corpus.words import is_held_out

SEEDS = range(50)


def test_a_seed_always_gives_the_same_conversation() -> None:
    assert conversation(7, 2000) == conversation(7, 2000)


def test_another_seed_gives_another_conversation() -> None:
    assert conversation(7, 2000) != conversation(8, 2000)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_recalled_value_occurs_in_a_user_message(seed: int) -> None:
    turns = conversation(seed, 2000).turns

    for index, turn in enumerate(turns):
        if turn.task in ("recall", "recall all"):
            said = " ".join(t.text for t in turns[:index] if t.role == "user")
            assert all(value in said for value in turn.copied)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fact_is_unknown_only_until_it_is_given(seed: int) -> None:
    told: set[str] = set()

    for turn in conversation(seed, 2000).turns:
        if turn.task == "tell":
            told |= {key for key in FACTS if f"your {key} is" in turn.text}
        if turn.task == "unknown":
            assert not any(turn.text == f"I do not know your {key}." for key in told)


@pytest.mark.parametrize("seed", SEEDS)
def test_copied_values_occur_in_the_answer(seed: int) -> None:
    for turn in conversation(seed, 2000).turns:
        written = turn.text + " ".join(v for call in turn.calls for v in call.arguments.values())
        assert all(value in written for value in turn.copied)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_offered_tools_are_called(seed: int) -> None:
    drawn = conversation(seed, 2000)

    called = {call.tool for turn in drawn.turns for call in turn.calls}

    assert called <= _offered(drawn)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_call_is_followed_by_its_result(seed: int) -> None:
    for turn, following in pairwise(conversation(seed, 2000).turns):
        assert (following.role == "tool") == bool(turn.calls)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_examination_uses_only_held_out_words(seed: int) -> None:
    exam = conversation(seed, 2000, COPY_WEIGHTS, is_exam=True)

    words = [word for value in _copied(exam) for word in value.split() if _is_unseen(word)]
    assert words
    assert all(is_held_out(word) for word in words)


@pytest.mark.parametrize("seed", SEEDS)
def test_training_never_uses_held_out_words(seed: int) -> None:
    words = [word for value in _copied(conversation(seed, 2000)) for word in value.split()]

    assert not any(is_held_out(word) for word in words if _is_unseen(word))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_count_starts_and_ends_at_the_requested_numbers(seed: int) -> None:
    question, answer = tasks.count(random.Random(seed), Facts(tools=frozenset()))

    asked = [int(number) for number in re.findall(r"\d+", question.text)]
    counted = [int(number) for number in re.findall(r"\d+", answer.text)]
    first, last = asked if len(asked) == 2 else (1, asked[0])
    assert counted == list(range(first, last + 1))


def _copied(drawn: DemoConversation) -> set[str]:
    return {value for turn in drawn.turns for value in turn.copied}


def _is_unseen(word: str) -> bool:
    """Whether a word is from the divided sets: not a short number, a time, or a code such as
    B27.
    """
    return word.isalpha() if not word.isdigit() else len(word) >= 4


def _offered(drawn: DemoConversation) -> set[str]:
    functions = [tool["function"] for tool in drawn.tools]
    return {str(function["name"]) for function in functions if isinstance(function, dict)}
