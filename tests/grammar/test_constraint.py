"""Which token may come next, with drafts, ends, minimal lengths and reasoning."""

from __future__ import annotations

import random

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import Choice, Regex
from segue.grammar.build import GrammarSpec, build
from segue.grammar.compiler import GrammarCompiler
from segue.grammar.constraint import Constraint
from segue.text.tokens.tokenizer import Tokenizer
from tests.grammar.conftest import VOCAB_SIZE
from tests.grammar.walks import allowed_ids, end_of


def constraint(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    output: Regex | Choice | None,
    *,
    min_tokens: int = 0,
    reasoning_end: int | None = None,
) -> Constraint:
    spec = None if output is None else GrammarSpec(output=output)
    return Constraint(
        vocab_size=VOCAB_SIZE,
        end_ids=[end_of(tokenizer)],
        min_tokens=min_tokens,
        grammar=None if spec is None else compiler.compile(build(spec).grammar),
        reasoning_end=reasoning_end,
    )


def test_an_end_token_is_allowed_only_where_the_grammar_may_end(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    end = end_of(tokenizer)
    yes = constraint(compiler, tokenizer, Choice(("yes", "yes!")))

    assert end not in allowed_ids(yes)
    yes.take(tokenizer.encode("yes"))
    assert end in allowed_ids(yes)
    yes.take(tokenizer.encode("!"))
    assert allowed_ids(yes) == [end]
    yes.take([end])
    assert len(allowed_ids(yes)) == VOCAB_SIZE


def test_tokens_taken_back_were_never_there(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """Random drafts, of which some stay, against one that takes only what stays."""
    source = random.Random(1)
    drafted = constraint(compiler, tokenizer, Regex("([a-z]{1,3} ){5,9}[0-9]+"), min_tokens=9)
    plain = constraint(compiler, tokenizer, Regex("([a-z]{1,3} ){5,9}[0-9]+"), min_tokens=9)
    for _ in range(40):
        drafts = []
        for _ in range(source.randint(0, 4)):
            drafts.append(source.choice(allowed_ids(drafted)))
            drafted.take(drafts[-1:])
        drafted.take_back(len(drafts))

        assert allowed_ids(drafted) == allowed_ids(plain)
        token_id = source.choice(allowed_ids(plain))
        drafted.take([token_id])
        plain.take([token_id])


def test_before_the_least_length_no_end_is_allowed(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    end = end_of(tokenizer)
    free = constraint(compiler, tokenizer, None, min_tokens=2)
    digits = constraint(compiler, tokenizer, Regex("[0-9]*"), min_tokens=2)
    one = constraint(compiler, tokenizer, Choice(("1",)), min_tokens=2)

    for each in (free, digits):
        for _ in range(2):
            assert end not in allowed_ids(each)
            each.take(tokenizer.encode("1"))
    assert not free.is_masking
    assert end in allowed_ids(digits)
    one.take(tokenizer.encode("1"))
    assert allowed_ids(one) == [end], "the grammar allows nothing else"


def test_a_grammar_starts_after_the_reasoning(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    think_end = tokenizer.token_id("</think>")
    assert think_end is not None
    one = constraint(compiler, tokenizer, Regex("[0-9]"), reasoning_end=think_end)
    in_reasoning = allowed_ids(one)

    assert not one.follows_grammar
    assert set(range(VOCAB_SIZE)) - set(in_reasoning) == {end_of(tokenizer)}
    one.take([*tokenizer.encode("a 1"), think_end])
    assert one.follows_grammar
    assert all(tokenizer.token_bytes(i).isdigit() for i in allowed_ids(one))
    one.take_back(1)
    assert allowed_ids(one) == in_reasoning


def test_an_answer_that_breaks_its_grammar_is_refused(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InvalidRequest, match="does not follow"):
        constraint(compiler, tokenizer, Regex("[0-9]")).take(tokenizer.encode("a"))


def test_masks_along_drafts_end_with_the_first_forbidden_one(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """And leave the answer where it was."""
    drafted = constraint(compiler, tokenizer, Regex("[0-9]{3}"), min_tokens=2)
    plain = constraint(compiler, tokenizer, Regex("[0-9]{3}"), min_tokens=2)
    one, letter, end = tokenizer.encode("1")[0], tokenizer.encode("a")[0], end_of(tokenizer)
    for drafts, num_allowed in (
        ([], 0),
        ([letter, one], 0),
        ([one, letter, one], 1),
        ([one, one, one, end, letter], 5),
        ([one, one, end], 2),
    ):
        expected = [plain.mask()]
        for draft in drafts[:num_allowed]:
            plain.take([draft])
            expected.append(plain.mask())
        plain.take_back(num_allowed)

        masks = drafted.masks_along(drafts)

        assert [mask.tolist() for mask in masks] == [mask.tolist() for mask in expected]
