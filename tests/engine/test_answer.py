from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.api.errors import InvalidRequest
from segue.api.turn import FinishReason, TokenDelta
from segue.api.types import SampledToken, StopRules
from segue.engine.answer import AnswerState

EOS = 256
SPECIAL = 257


class Bytes:
    """A tokenizer whose ids below 256 are bytes; the others are special and have no text."""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


def rules(
    *, max_tokens: int = 256, stop_strings: tuple[str, ...] = (), ends: tuple[int, ...] = (EOS,)
) -> StopRules:
    return StopRules(max_tokens=max_tokens, stop_strings=stop_strings, stop_token_ids=ends)


def answer(stop: StopRules | None = None) -> AnswerState:
    return AnswerState(stop=stop or rules(), tokenizer=Bytes())


def tokens(*parts: str | int) -> list[SampledToken]:
    ids: list[int] = []
    for part in parts:
        ids.extend([part] if isinstance(part, int) else part.encode())
    return [SampledToken(token_id=token_id) for token_id in ids]


def push_all(one: AnswerState, sampled: list[SampledToken]) -> list[TokenDelta]:
    deltas = []
    for token in sampled:
        deltas.append(one.push([token]))
        if one.finish is not None:
            break
    return deltas


def text_of(deltas: list[TokenDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def ids_of(deltas: list[TokenDelta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


def test_an_end_token_stops_is_counted_and_has_no_text() -> None:
    one = answer()

    deltas = push_all(one, tokens("hi", EOS))

    assert text_of(deltas) == "hi"
    assert ids_of(deltas) == [*b"hi", EOS]
    assert one.num_tokens == 3
    assert one.finish is FinishReason.STOP
    assert one.stop_match == ""


def test_without_end_tokens_an_answer_continues_to_the_limit() -> None:
    one = answer(rules(max_tokens=4, ends=()))

    deltas = push_all(one, tokens("a", EOS, "bcd"))

    assert text_of(deltas) == "abc"
    assert one.finish is FinishReason.LENGTH


def test_each_of_several_end_tokens_ends_and_hides_its_text() -> None:
    ends = (ord("!"), EOS)
    one = answer(rules(ends=ends))

    deltas = push_all(one, tokens("hi!"))

    assert text_of(deltas) == "hi"
    assert one.num_tokens == 3
    assert one.finish is FinishReason.STOP
    again = answer(rules(ends=ends))
    push_all(again, tokens(EOS))
    assert again.finish is FinishReason.STOP


def test_special_tokens_that_do_not_end_have_no_text() -> None:
    assert text_of(push_all(answer(), tokens("a", SPECIAL, "b"))) == "ab"


def test_a_stop_string_ends_the_text_before_it() -> None:
    one = answer(rules(stop_strings=("END", "never")))

    deltas = push_all(one, tokens("go END on"))

    assert text_of(deltas) == "go "
    assert ids_of(deltas) == [*b"go END"]
    assert one.finish is FinishReason.STOP
    assert one.stop_match == "END"


def test_ids_come_at_once_while_text_waits_for_a_stop_string_to_fail() -> None:
    one = answer(rules(stop_strings=("END",)))

    deltas = push_all(one, tokens("ENx"))

    assert [delta.token_ids for delta in deltas] == [(ord("E"),), (ord("N"),), (ord("x"),)]
    assert [delta.text for delta in deltas] == ["", "", "ENx"]


@pytest.mark.parametrize(
    ("stop", "last", "reason"),
    [
        (rules(stop_strings=("END",), max_tokens=2), "N", FinishReason.LENGTH),
        (rules(stop_strings=("END",)), EOS, FinishReason.STOP),
    ],
)
def test_held_back_text_is_shown_at_the_end(
    stop: StopRules, last: str | int, reason: FinishReason
) -> None:
    one = answer(stop)

    deltas = push_all(one, tokens("E", last))

    assert text_of(deltas) == ("EN" if last == "N" else "E")
    assert one.finish is reason


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    one = answer(rules(max_tokens=3))

    deltas = push_all(one, tokens("🦉"))

    assert [delta.text for delta in deltas] == ["", "", "\ufffd"]


def test_a_stop_string_may_be_completed_by_the_flush_at_the_end() -> None:
    one = answer(rules(max_tokens=2, stop_strings=("\ufffd",)))

    deltas = push_all(one, tokens("a", 0xF0))

    assert text_of(deltas) == "a"
    assert (one.finish, one.stop_match) == (FinishReason.STOP, "\ufffd")


def test_an_answer_ends_at_its_token_limit() -> None:
    one = answer(rules(max_tokens=2))

    assert text_of(push_all(one, tokens("abc"))) == "ab"
    assert one.finish is FinishReason.LENGTH


@pytest.mark.parametrize("last", [EOS, ord("!")])
def test_a_stop_on_the_last_allowed_token_is_a_stop(last: int) -> None:
    one = answer(rules(max_tokens=3, stop_strings=("!",)))

    push_all(one, tokens("ab", last))

    assert one.finish is FinishReason.STOP


def test_pushed_tokens_are_cut_at_the_answers_end() -> None:
    one = answer()

    delta = one.push(tokens("ab", EOS, "cd"))

    assert delta.token_ids == (*b"ab", EOS)
    assert delta.text == "ab"
    assert one.num_tokens == 3
    assert one.finish is FinishReason.STOP


def test_pushing_no_token_changes_nothing() -> None:
    one = answer()

    assert one.push([]) == TokenDelta()
    assert one.finish is None


short_texts = st.text(alphabet="abEND🦉", max_size=30)


@settings(max_examples=200, derandomize=True)
@given(text=short_texts, cuts=st.lists(st.integers(1, 5)), limit=st.integers(1, 60))
def test_several_tokens_at_once_and_single_tokens_make_the_same_answer(
    text: str, cuts: list[int], limit: int
) -> None:
    stop = rules(max_tokens=limit, stop_strings=("END", "bE"))
    sampled = tokens(text, EOS)
    single, several = answer(stop), answer(stop)

    one_by_one = push_all(single, sampled)
    deltas = []
    while sampled and several.finish is None:
        size = cuts.pop() if cuts else 3
        deltas.append(several.push(sampled[:size]))
        sampled = sampled[size:]

    assert text_of(deltas) == text_of(one_by_one)
    assert ids_of(deltas) == ids_of(one_by_one)
    assert (several.finish, several.stop_match, several.num_tokens) == (
        single.finish,
        single.stop_match,
        single.num_tokens,
    )


def test_logprobs_travel_with_their_tokens() -> None:
    sampled = SampledToken(token_id=ord("a"), logprob=-0.5)

    assert answer().push([sampled]).logprobs == (sampled,)
    assert answer().push([SampledToken(token_id=ord("a"))]).logprobs == ()


def test_without_a_tokenizer_ids_are_delivered_and_text_is_not() -> None:
    one = AnswerState(stop=rules(), tokenizer=None)

    deltas = push_all(one, tokens("hi", EOS))

    assert ids_of(deltas) == [*b"hi", EOS]
    assert text_of(deltas) == ""
    assert one.finish is FinishReason.STOP


def test_stop_strings_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="stop strings need text"):
        AnswerState(stop=rules(stop_strings=("END",)), tokenizer=None)
