"""The digest of a history: equal for equal histories, different for anything that renders."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from segue.api import history
from segue.api.errors import InvalidRequest
from segue.api.history import DigestChain, continuation, digests, num_common
from segue.api.types import (
    ChatInput,
    Continuation,
    Message,
    SessionId,
    ToolCall,
    TurnId,
    TurnRequest,
)

CALL = ToolCall(name="f", arguments='{"a": 1}', call_id="7")
CHAT = ChatInput(
    messages=(
        Message(role="user", content="Weather?"),
        Message(role="assistant", content="Wait.", reasoning="A tool.", tool_calls=(CALL,)),
        Message(role="tool", content="rain", tool_call_id="7", name="f"),
    ),
    tools=('{"name": "f"}', '{"name": "g"}'),
)


def with_message(index: int, **changes: object) -> ChatInput:
    messages = list(CHAT.messages)
    messages[index] = replace(messages[index], **changes)  # type: ignore[arg-type]
    return replace(CHAT, messages=tuple(messages))


CHANGED = [
    with_message(0, role="system"),
    with_message(0, content="Weather"),
    with_message(1, content="", reasoning="Wait.A tool."),
    with_message(1, reasoning=""),
    with_message(1, reasoning=None),
    with_message(0, content="", content_parts=("Weather?",)),
    with_message(0, content="", content_parts=("Weather", "?")),
    with_message(1, tool_calls=()),
    with_message(1, tool_calls=(CALL, CALL)),
    with_message(1, tool_calls=(replace(CALL, name="g"),)),
    with_message(1, tool_calls=(replace(CALL, arguments='{"a":1}'),)),
    with_message(1, tool_calls=(replace(CALL, call_id=""),)),
    with_message(2, tool_call_id="f", name="7"),
    with_message(2, name=""),
    replace(CHAT, tools=CHAT.tools[:1]),
    replace(CHAT, tools=CHAT.tools[::-1]),
    replace(CHAT, enable_thinking=True),
    replace(CHAT, enable_thinking=False),
    replace(CHAT, chat_template_kwargs='{"preserve_thinking": true}'),
]


@pytest.mark.parametrize("changed", CHANGED)
def test_every_rendered_field_changes_the_digest(changed: ChatInput) -> None:
    assert digests(changed)[-1] != digests(CHAT)[-1]


def test_no_two_histories_share_a_digest() -> None:
    assert len({digests(changed)[-1] for changed in CHANGED}) == len(CHANGED)


def test_each_digest_covers_the_messages_up_to_its_own() -> None:
    shorter = replace(CHAT, messages=CHAT.messages[:2])

    assert digests(shorter) == digests(CHAT)[:2]
    assert len(set(digests(CHAT))) == 3


def test_the_digest_is_the_documented_one() -> None:
    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(8, "big") + value.encode()

    none = bytes(8)
    root = hashlib.sha256(none + text("unset") + text('{"a": 1}')).digest()
    message = text("user") + text("Grüße") + none + none + text("") + text("") + none
    thought = bytes(7) + b"\x01" + text("hm")
    answer = text("assistant") + text("") + none + none + text("") + text("") + thought
    chat = ChatInput(
        messages=(
            Message(role="user", content="Grüße"),
            Message(role="assistant", reasoning="hm"),
        ),
        chat_template_kwargs='{"a": 1}',
    )

    first, second = digests(chat)

    assert first == hashlib.sha256(root + message).digest()
    assert second == hashlib.sha256(first + answer).digest()


def test_a_continuation_has_only_the_following_messages() -> None:
    continued = continuation(replace(CHAT, enable_thinking=True), 2)

    assert continued.messages == CHAT.messages[2:]
    assert continued.tools == ()
    assert continued.continues is not None
    assert continued.continues.digest == digests(replace(CHAT, enable_thinking=True))[1]


def test_a_continuation_takes_tools_and_options_from_its_history() -> None:
    continues = Continuation(num_messages=1, digest=b"d")

    with pytest.raises(InvalidRequest, match="omit them"):
        ChatInput(messages=(), tools=("{}",), continues=continues)
    with pytest.raises(InvalidRequest, match="omit them"):
        ChatInput(messages=(), enable_thinking=False, continues=continues)
    with pytest.raises(InvalidRequest, match="omit them"):
        ChatInput(messages=(), chat_template_kwargs="{}", continues=continues)
    with pytest.raises(InvalidRequest, match="must be at least 1, got 0"):
        Continuation(num_messages=0, digest=b"d")


def test_a_continuation_needs_its_sessions_name() -> None:
    with pytest.raises(InvalidRequest, match="needs the session_id"):
        TurnRequest(session_id=SessionId(""), turn_id=TurnId("t"), input=continuation(CHAT, 1))


def test_a_chain_hashes_only_new_messages_and_detects_changed_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[Message] = []
    as_bytes = history._message

    def watched(message: Message) -> bytes:
        hashed.append(message)
        return as_bytes(message)

    monkeypatch.setattr(history, "_message", watched)
    chain = DigestChain()
    longer = replace(CHAT, messages=(*CHAT.messages, Message(role="assistant", content="Rain.")))
    edited = replace(longer, messages=(*longer.messages[:2], longer.messages[3]))
    other = replace(longer, enable_thinking=True)

    for chat, num_hashed in ((CHAT, 3), (longer, 1), (longer, 0), (edited, 1), (other, 4)):
        hashed.clear()
        found = chain.of(chat)

        assert len(hashed) == num_hashed
        assert found == digests(chat)


def test_common_messages_are_found_by_their_content() -> None:
    equal = replace(CHAT, messages=tuple(replace(message) for message in CHAT.messages))

    assert num_common(CHAT, equal) == 3
    assert num_common(CHAT, replace(CHAT, messages=CHAT.messages[:2])) == 2
    assert num_common(CHAT, with_message(1, content="Now.")) == 1
    assert num_common(CHAT, replace(CHAT, tools=())) == 0
    assert num_common(CHAT, ChatInput(messages=())) == 0
