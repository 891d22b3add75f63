"""A worker's constraints: made once, and of a turn that goes on where another worker stopped."""

from __future__ import annotations

import numpy as np
import pytest

from segue.api.errors import InvalidRequest
from segue.api.prompt import Prompt
from segue.api.turn import TurnSpec
from segue.api.types import Grammar, Regex, Sampling, SessionId, StopRules, TurnId
from segue.grammar.build import GrammarSpec, build
from segue.grammar.constraint import Constraint
from segue.text.tokens.tokenizer import Tokenizer
from segue.worker.grammars import Grammars
from tests.grammar.conftest import VOCAB_SIZE
from tests.grammar.walks import end_of

PROMPT = (5, 6, 7)


def grammar() -> Grammar:
    return build(GrammarSpec(output=Regex("[0-9]{4}"), after_reasoning=True)).grammar


def turn(
    tokenizer: Tokenizer, answered: tuple[int, ...], grammar: Grammar | None, min_tokens: int = 0
) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId("t"),
        session_id=SessionId("s"),
        context=Prompt((*PROMPT, *answered)),
        num_answered=len(answered),
        sampling=Sampling(),
        stop=StopRules(max_tokens=30, stop_token_ids=(end_of(tokenizer),), min_tokens=min_tokens),
        grammar=grammar,
    )


def made(grammars: Grammars, spec: TurnSpec) -> Constraint | None:
    return grammars.start(spec).result(30)


def test_a_turn_goes_on_in_its_grammar_wherever_it_stopped(tokenizer: Tokenizer) -> None:
    """In the reasoning, right after it, in the grammar and at its end."""
    think_end = tokenizer.token_id("</think>")
    assert think_end is not None
    answer = (
        *tokenizer.encode("a 1"),
        think_end,
        *tokenizer.encode("\n\n12"),
        *[token for digit in "34" for token in tokenizer.encode(digit)],
    )
    grammars = Grammars(tokenizer, VOCAB_SIZE)
    whole = made(grammars, turn(tokenizer, (), grammar()))
    assert whole is not None
    for num in range(len(answer) + 1):
        continued = made(grammars, turn(tokenizer, answer[:num], grammar()))

        assert continued is not None
        assert np.array_equal(continued.mask(), whole.mask())
        whole.take(answer[num : num + 1])
    grammars.close()


def test_an_answer_so_far_that_breaks_its_grammar_is_refused(tokenizer: Tokenizer) -> None:
    grammars = Grammars(tokenizer, VOCAB_SIZE)
    plain = build(GrammarSpec(output=Regex("[0-9]{4}"))).grammar

    with pytest.raises(InvalidRequest, match="does not follow"):
        made(grammars, turn(tokenizer, tuple(tokenizer.encode("12a")), plain))
    grammars.close()


def test_only_turns_that_need_one_have_a_constraint(tokenizer: Tokenizer) -> None:
    grammars = Grammars(tokenizer, VOCAB_SIZE)

    assert made(grammars, turn(tokenizer, (), None)) is None
    assert made(grammars, turn(tokenizer, (9, 9), None, min_tokens=2)) is None
    short = made(grammars, turn(tokenizer, (9,), None, min_tokens=2))
    assert short is not None
    assert short.is_masking
    grammars.close()


def test_without_a_tokenizer_a_grammar_is_refused(tokenizer: Tokenizer) -> None:
    grammars = Grammars(None, VOCAB_SIZE)

    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        made(grammars, turn(tokenizer, (), grammar()))
    grammars.close()
