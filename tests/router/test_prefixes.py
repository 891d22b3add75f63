"""What a router can name of a prompt, from its session's last turn."""

from __future__ import annotations

from array import array

from router.prefixes import SessionPrefixes
from segue.types import SessionId

AGENT = SessionId("agent")
PAGE_TOKENS = 4
FIRST = array("I", range(10))
ANSWER = array("I", range(10, 15))


def after_a_turn(max_tokens: int = 1_000) -> SessionPrefixes:
    sessions = SessionPrefixes(max_tokens)
    sessions.keep(AGENT, sessions.of(AGENT, FIRST, PAGE_TOKENS), ANSWER)
    return sessions


def named_tokens(sessions: SessionPrefixes, prompt: list[int], held: int) -> int:
    name = sessions.of(AGENT, prompt, PAGE_TOKENS).name(held)
    return name.num_tokens if name else 0


def test_of_a_new_session_nothing_can_be_named() -> None:
    assert SessionPrefixes(100).of(AGENT, FIRST, PAGE_TOKENS).name(8) is None


def test_what_the_worker_keeps_of_the_last_turn_is_named_in_whole_pages() -> None:
    sessions = after_a_turn()
    prompt = [*FIRST, *ANSWER, 99, 98]

    assert named_tokens(sessions, prompt, held=15) == 12
    assert named_tokens(sessions, prompt, held=9) == 8
    assert named_tokens(sessions, prompt, held=3) == 0


def test_what_was_rendered_anew_is_not_named() -> None:
    prompt = [*FIRST[:6], 77, *FIRST[7:], *ANSWER]

    assert named_tokens(after_a_turn(), prompt, held=15) == 4


def test_names_go_on_from_turn_to_turn() -> None:
    sessions = after_a_turn()
    prompt = array("I", [*FIRST, *ANSWER, 20, 21, 22])

    sessions.keep(AGENT, sessions.of(AGENT, prompt, PAGE_TOKENS), array("I", [30, 31]))

    whole = [*prompt, 30, 31, 40]
    alone = SessionPrefixes(100)
    alone.keep(AGENT, alone.of(AGENT, whole, PAGE_TOKENS), array("I"))
    assert sessions.of(AGENT, whole, PAGE_TOKENS).name(20) == alone.of(
        AGENT, whole, PAGE_TOKENS
    ).name(20)


def test_the_session_that_was_unused_for_longest_is_forgotten() -> None:
    sessions = after_a_turn(max_tokens=40)
    for name in ("b", "c"):
        other = SessionId(name)
        sessions.keep(other, sessions.of(other, FIRST, PAGE_TOKENS), ANSWER)

    assert named_tokens(sessions, [*FIRST, *ANSWER], held=8) == 0
    assert sessions.of(SessionId("c"), FIRST, PAGE_TOKENS).name(8) is not None


def test_a_session_that_is_released_is_forgotten() -> None:
    sessions = after_a_turn()

    sessions.forget(AGENT)

    assert named_tokens(sessions, [*FIRST, *ANSWER], held=8) == 0


def test_workers_with_other_pages_get_the_whole_prompt() -> None:
    assert after_a_turn().of(AGENT, FIRST, 2 * PAGE_TOKENS).name(8) is None
