"""The conversations that the router keeps: continuation, refusal, size limits, comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sessions.history import (
    Completed,
    History,
    TurnTokens,
    characters_before,
    complete,
)
from router.sessions.table import SessionTable
from segue.api.errors import UnknownHistory
from segue.api.history import continuation, digests
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, TurnEnd
from segue.api.types import (
    ChatInput,
    Message,
    SessionId,
    TextInput,
    TokenInput,
    TurnId,
    TurnInput,
    TurnRequest,
)

SESSION = SessionId("s")
PAGE_TOKENS = 4
END = TurnEnd(finish_reason=FinishReason.STOP)
TOOLS = ('{"name": "f"}',)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


FIRST = ChatInput(messages=(user("one"), assistant("1"), user("two")), tools=TOOLS)
SECOND = replace(FIRST, messages=(*FIRST.messages, assistant("2"), user("three")))


def asked(turn_input: TurnInput, session_id: SessionId = SESSION) -> TurnRequest:
    return TurnRequest(session_id=session_id, turn_id=TurnId("t"), input=turn_input)


class Histories:
    """A session table used only for histories, as the router uses it."""

    def __init__(self, max_bytes: int) -> None:
        self.table = SessionTable(max_sessions=100, history_bytes=max_bytes)

    @property
    def size_bytes(self) -> int:
        return self.table.history_bytes

    def find(self, session_id: SessionId) -> History | None:
        return self.table.history(session_id)

    def complete(self, request: TurnRequest) -> Completed:
        return complete(request, self.find(request.session_id))


def run_turn(
    histories: Histories,
    turn_input: TurnInput,
    prompt: tuple[int, ...] = (1, 2),
    answer: tuple[int, ...] = (3,),
    session_id: SessionId = SESSION,
) -> TurnEnd:
    """Runs a whole turn."""
    table, completed = histories.table, histories.complete(asked(turn_input, session_id))
    tokens = compared(histories, completed, prompt).with_answer(answer)
    return table.record(table.of(session_id), completed, tokens, None, END)


def compared(
    histories: Histories, completed: Completed, prompt: tuple[int, ...] = (1, 2)
) -> TurnTokens:
    last = histories.table.tokens(completed.request.session_id)
    return TurnTokens.of(Prompt(prompt), last, PAGE_TOKENS, known=completed.known)


def shared(histories: Histories, turn_input: TurnInput, prompt: tuple[int, ...]) -> int | None:
    return compared(histories, histories.complete(asked(turn_input)), prompt).num_shared


@pytest.fixture
def histories() -> Histories:
    return Histories(1 << 20)


def test_a_continued_turn_gets_all_earlier_messages(histories: Histories) -> None:
    kept = run_turn(histories, FIRST).kept_messages

    whole = histories.complete(asked(continuation(SECOND, kept)))

    assert kept == 3
    assert (whole.request, whole.num_same) == (asked(SECOND), 3)


def test_a_prefix_of_the_kept_history_can_be_continued(histories: Histories) -> None:
    run_turn(histories, SECOND)
    other = replace(FIRST, messages=(*FIRST.messages[:2], user("two, again")))

    completed = histories.complete(asked(continuation(other, 2)))

    assert (completed.request, completed.num_same) == (asked(other), 2)


@pytest.mark.parametrize(
    "continued",
    [
        continuation(SECOND, 4),
        continuation(replace(SECOND, enable_thinking=True), 3),
        continuation(replace(SECOND, tools=()), 3),
        continuation(replace(SECOND, messages=(user("One"), *SECOND.messages[1:])), 3),
    ],
    ids=["longer", "other options", "other tools", "edited"],
)
def test_a_history_that_is_not_kept_is_refused(histories: Histories, continued: ChatInput) -> None:
    run_turn(histories, FIRST)

    with pytest.raises(
        UnknownHistory, match=r"kept history \(3 messages\).* send the whole history"
    ):
        histories.complete(asked(continued))


def test_another_session_cannot_continue_this_history(histories: Histories) -> None:
    run_turn(histories, FIRST)

    with pytest.raises(UnknownHistory, match=r"kept history \(0 messages\)"):
        histories.complete(asked(continuation(SECOND, 3), SessionId("x")))


def test_a_turn_that_did_not_end_changes_nothing(histories: Histories) -> None:
    run_turn(histories, FIRST)
    before = histories.find(SESSION)

    compared(histories, histories.complete(asked(continuation(SECOND, 3))), (1, 2, 9))

    assert histories.find(SESSION) is before


def test_only_chats_of_named_sessions_are_kept(histories: Histories) -> None:
    assert run_turn(histories, TextInput("hello")).kept_messages == 0
    assert run_turn(histories, FIRST, session_id=SessionId("")).kept_messages == 0
    assert histories.size_bytes == 0


def test_a_fork_and_its_parent_continue_independently(histories: Histories) -> None:
    child = SessionId("child")
    run_turn(histories, FIRST)

    histories.table.fork_history(SESSION, child)
    run_turn(histories, continuation(SECOND, 3), session_id=child)
    histories.table.release(SESSION)

    assert histories.find(SESSION) is None
    completed = histories.complete(asked(continuation(SECOND, 5), child))
    assert completed.request == asked(SECOND, child)


def test_the_least_recently_used_history_is_evicted() -> None:
    once = Histories(1 << 20)
    run_turn(once, FIRST)
    size = once.size_bytes
    histories = Histories(2 * size)

    for name in ("a", "b", "a", "c"):
        assert run_turn(histories, FIRST, session_id=SessionId(name)).kept_messages == 3

    assert histories.size_bytes == 2 * size
    assert histories.find(SessionId("b")) is None
    assert histories.find(SessionId("a")) is not None


def test_a_history_that_is_too_large_is_not_kept_and_evicts_nothing() -> None:
    histories = Histories(10_000)
    run_turn(histories, FIRST)
    huge = ChatInput(messages=(user("x" * 10_000),))

    assert run_turn(histories, huge, session_id=SessionId("huge")).kept_messages == 0
    assert histories.find(SESSION) is not None


def test_sizes_count_text_and_tokens(histories: Histories) -> None:
    chat = ChatInput(messages=(user("x" * 1000),), tools=("y" * 500,))

    run_turn(histories, chat, prompt=tuple(range(250)), answer=())

    assert 2500 < histories.size_bytes < 4000


def test_a_continued_session_has_the_same_size_as_one_sent_whole() -> None:
    grown, whole = Histories(1 << 20), Histories(1 << 20)
    run_turn(grown, FIRST)

    run_turn(grown, continuation(SECOND, 3))
    run_turn(whole, SECOND)

    assert grown.size_bytes == whole.size_bytes
    kept, sent = grown.find(SESSION), whole.find(SESSION)
    assert kept is not None
    assert sent is not None
    assert kept.digests == sent.digests == digests(SECOND)
    assert kept.character_ends == sent.character_ends
    assert kept.character_ends[-1] == sum(map(len, SECOND.texts()))


def test_the_characters_before_a_turn_are_those_of_its_history(histories: Histories) -> None:
    run_turn(histories, FIRST)
    shorter = replace(FIRST, messages=FIRST.messages[:2])

    known = histories.find(SESSION)
    before = characters_before(asked(continuation(SECOND, 2)), known)

    assert before == sum(map(len, shorter.texts()))
    assert characters_before(asked(SECOND), known) == 0


@pytest.mark.parametrize(
    ("prompt", "rerendered"),
    [
        ((1, 2, 3, 4, 5, 6, 9, 9), 0),
        ((1, 2, 3, 4, 9, 6, 9, 9), 2),
        ((1, 2, 9), 4),
        ((1, 2, 3), 3),
        ((9,), 6),
    ],
)
def test_tokens_that_render_differently_are_counted(
    histories: Histories, prompt: tuple[int, ...], rerendered: int
) -> None:
    first = run_turn(histories, FIRST, prompt=(1, 2, 3), answer=(4, 5, 6))

    second = run_turn(histories, continuation(SECOND, 3), prompt=prompt)

    assert first.usage.rerendered_tokens == 0
    assert second.usage.rerendered_tokens == rerendered


def test_a_client_that_sends_everything_is_compared_too(histories: Histories) -> None:
    run_turn(histories, FIRST, prompt=(1, 2, 3), answer=(4,))

    assert run_turn(histories, SECOND, prompt=(1, 2, 3, 9)).usage.rerendered_tokens == 1


@pytest.mark.parametrize(
    "chat",
    [
        FIRST,
        replace(FIRST, messages=FIRST.messages[:1]),
        replace(FIRST, messages=(*FIRST.messages, user("I meant: 3"))),
        replace(SECOND, messages=(user("One"), *SECOND.messages[1:])),
    ],
    ids=["again", "cut", "answer left out", "edited"],
)
def test_a_clients_own_change_is_not_counted_as_re_rendering(
    histories: Histories, chat: ChatInput
) -> None:
    run_turn(histories, FIRST, prompt=(1, 2, 3), answer=(4,))

    assert run_turn(histories, chat, prompt=(7, 8)).usage.rerendered_tokens == 0


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_the_common_prefix_equals_an_item_by_item_comparison(
    one: list[int], other: list[int]
) -> None:
    expected = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        expected += 1

    assert Prompt(one).num_common(Prompt(other)) == expected


def test_the_unchanged_part_of_a_prompt_is_known_at_the_turns_start(histories: Histories) -> None:
    assert shared(histories, FIRST, (1, 2)) is None
    run_turn(histories, FIRST)
    kept = histories.find(SESSION)
    assert kept is not None

    same = (*kept.tokens, 90, 91)
    assert shared(histories, SECOND, same) == len(kept.tokens)
    assert shared(histories, SECOND, (kept.tokens[0], 99, 98)) == 1
    # No history is kept for token ids: what is known belongs to another prompt.
    assert shared(histories, TokenInput(same), same) is None


def test_the_last_turns_tokens_are_stored_once(histories: Histories) -> None:
    run_turn(histories, FIRST)

    kept, last = histories.find(SESSION), histories.table.tokens(SESSION)
    assert kept is not None
    assert last is not None
    assert kept.tokens is last.tokens


def test_a_prompt_is_compared_with_the_last_turn_and_the_history(
    histories: Histories,
) -> None:
    run_turn(histories, FIRST, prompt=(1, 2, 3, 4, 5, 6, 7), answer=(8, 9))
    run_turn(histories, TokenInput((1, 2)), prompt=(1, 2, 90), answer=(91,))

    completed = histories.complete(asked(continuation(SECOND, 3)))
    tokens = compared(histories, completed, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10))

    assert (tokens.num_shared, tokens.num_equal) == (9, 2)
