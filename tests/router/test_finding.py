"""Finds the session that a chat continues, for a client that sends the whole conversation each
time.
"""

from __future__ import annotations

import random
from array import array

from router.sessions.finding import SessionFinder
from router.sessions.history import History
from router.sessions.table import Histories, SessionTable
from segue.api.history import digests
from segue.api.prompt import Prompt
from segue.api.types import ChatInput, Message, SessionId

CLIENT = "claude"


def chat(*texts: str, tools: tuple[str, ...] = ()) -> ChatInput:
    """`s…` is a system message, `a…` an assistant's, and every other text a user's."""
    roles = {"s": "system", "a": "assistant"}
    messages = (Message(role=roles.get(text[0], "user"), content=text) for text in texts)
    return ChatInput(messages=tuple(messages), tools=tools)


def history(about: ChatInput) -> History:
    return History(chat=about, digests=digests(about), tokens=Prompt(array("I", [1, 2])))


class Finder:
    def __init__(self) -> None:
        self.table = SessionTable(max_sessions=100, history_bytes=1 << 20)
        self.sessions = SessionFinder(self.table)

    def find(self, about: ChatInput, hint: str = "") -> SessionId:
        return self.sessions.find(about, digests(about), hint)

    def turn(self, about: ChatInput, hint: str = "") -> SessionId:
        """Runs a whole turn in the session that is found."""
        session_id = self.find(about, hint)
        self.table.histories[session_id] = history(about)
        return session_id


def test_a_continued_conversation_stays_in_its_session() -> None:
    finder = Finder()
    session_id = finder.turn(chat("s", "hello"))
    assert finder.turn(chat("s", "hello", "a1", "more")) == session_id
    assert finder.turn(chat("s", "hello", "a1", "more", "a2", "and more")) == session_id


def test_a_repeated_request_stays_in_its_session() -> None:
    finder = Finder()
    assert finder.turn(chat("s", "hello")) == finder.turn(chat("s", "hello"))


def test_two_requests_that_continue_one_history_fork_it() -> None:
    finder = Finder()
    session_id = finder.turn(chat("s", "hello"))
    first, second = chat("s", "hello", "a1", "left"), chat("s", "hello", "a1", "right")

    assert finder.find(first) == session_id
    with finder.sessions.running(session_id):
        fork = finder.find(second)
        assert fork != session_id
        assert finder.table.history(fork) == finder.table.history(session_id)
    finder.table.histories[session_id] = history(first)
    finder.table.histories[fork] = history(second)

    assert finder.turn(chat("s", "hello", "a1", "left", "a2", "on")) == session_id
    assert finder.turn(chat("s", "hello", "a1", "right", "a2", "on")) == fork


def test_a_return_to_an_earlier_message_forks() -> None:
    finder = Finder()
    session_id = finder.turn(chat("s", "hello"))
    finder.turn(chat("s", "hello", "a1", "more"))
    other = finder.turn(chat("s", "hello", "a1", "something else"))
    assert other != session_id
    assert finder.turn(chat("s", "hello", "a1", "more", "a2", "on")) == session_id


def test_a_side_request_of_the_same_client_does_not_displace_its_session() -> None:
    finder = Finder()
    tools = ('{"name": "shell"}',)
    session_id = finder.turn(chat("s", "hello", tools=tools), CLIENT)
    assert session_id == CLIENT
    title = finder.turn(chat("s: write a title", "hello"), CLIENT)
    assert title != session_id
    assert title.startswith(CLIENT)
    assert finder.turn(chat("s", "hello", "a1", "more", tools=tools), CLIENT) == session_id


def test_a_shared_system_message_alone_makes_no_fork() -> None:
    finder = Finder()
    finder.turn(chat("s", "hello"))
    session_id = finder.find(chat("s", "what else?"))
    assert finder.table.history(session_id) is None


def test_a_chat_may_start_with_an_answer() -> None:
    finder = Finder()
    greeted = finder.turn(chat("a welcome", "hello"))
    assert finder.turn(chat("a welcome", "hello", "a1", "more")) == greeted
    assert finder.turn(chat("another welcome")) != greeted


def test_a_client_continues_only_its_own_sessions() -> None:
    finder = Finder()
    finder.table.histories[SessionId("sdk")] = history(chat("s", "hello"))
    assert finder.turn(chat("s", "hello", "a1", "more")) != "sdk"
    assert finder.turn(chat("s", "hello", "a1", "more"), CLIENT) == CLIENT
    assert finder.find(chat("s", "hello", "a1", "more", "a2", "on"), "codex") == "codex"


def test_other_tools_or_options_are_another_conversation() -> None:
    finder = Finder()
    session_id = finder.turn(chat("s", "hello"))
    assert finder.find(chat("s", "hello", "a1", "more", tools=('{"name": "f"}',))) != session_id


def test_the_index_contains_exactly_the_prefixes_of_the_histories() -> None:
    source = random.Random(5)
    histories = Histories(20_000)
    names = [SessionId(f"s{number}") for number in range(6)]
    for _ in range(2_000):
        session_id = source.choice(names)
        known = histories.get(session_id)
        texts = [m.content for m in known.chat.messages] if known else ["s"]
        if source.random() < 0.3:
            texts = texts[: source.randint(1, len(texts))]
        texts = [*texts, source.choice("uvw"), "a"][:40]
        if source.random() < 0.1:
            histories.pop(session_id, None)
        else:
            histories[session_id] = history(chat(*texts))

        expected: dict[bytes, set[SessionId]] = {}
        for one in list(histories):
            for digest in histories[one].digests:
                expected.setdefault(digest, set()).add(one)
        assert {digest: set(kept) for digest, kept in histories._sessions.items()} == expected


def test_a_history_beyond_the_bound_leaves_no_trace() -> None:
    table = SessionTable(max_sessions=10, history_bytes=3_000)
    for number in range(50):
        about = chat("s", f"hello {number}")
        table.histories[SessionId(str(number))] = history(about)
    kept = table.histories
    assert len(kept) < 5
    assert set(kept._indexed) == set(kept)
