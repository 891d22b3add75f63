"""The prefixes of a prompt that a router can name, from its session's last turn."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from router.sessions.history import TurnTokens
from segue.api.prompt import Prompt

PAGE_TOKENS = 4
FIRST = array("I", range(10))
ANSWER = array("I", range(10, 15))


def after(
    last: TurnTokens | None, prompt: Sequence[int], page_tokens: int = PAGE_TOKENS
) -> TurnTokens:
    return TurnTokens.of(Prompt(prompt), last, page_tokens)


LAST = after(None, FIRST).with_answer(ANSWER)


def named_tokens(prompt: Sequence[int], held: int) -> int:
    name = after(LAST, prompt).name(held)
    return name.num_tokens if name else 0


def test_a_new_session_has_no_named_prefix() -> None:
    assert after(None, FIRST).name(8) is None


def test_the_kept_part_of_the_last_turn_is_named_in_whole_pages() -> None:
    prompt = [*FIRST, *ANSWER, 99, 98]

    assert named_tokens(prompt, held=15) == 12
    assert named_tokens(prompt, held=9) == 8
    assert named_tokens(prompt, held=3) == 0


def test_a_re_rendered_part_is_not_named() -> None:
    prompt = [*FIRST[:6], 77, *FIRST[7:], *ANSWER]

    assert named_tokens(prompt, held=15) == 4


def test_names_continue_from_turn_to_turn() -> None:
    prompt = array("I", [*FIRST, *ANSWER, 20, 21, 22])
    second = after(LAST, prompt)
    assert second.name(12) is not None

    third = after(second.with_answer([30, 31]), [*prompt, 30, 31, 40])

    alone = after(after(None, third.tokens), third.tokens)
    assert third.name(20) == alone.name(20)
    assert third.name(20) is not None


def test_a_worker_with_another_page_size_gets_the_whole_prompt() -> None:
    assert after(LAST, FIRST, 2 * PAGE_TOKENS).name(8) is None
