"""A value of the wrong type is refused by the call that gets it, with its name and the value."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

import segue
from segue import (
    ChatInput,
    Client,
    Message,
    SamplingParams,
    StopConditions,
    TextInput,
    TokenInput,
    ToolCall,
)
from segue.api.errors import InvalidRequest
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent
from segue.api.types import SessionId
from segue.sdk.session import Session

ASKED = {"role": "user", "content": "hi"}
HI = Message(role="user", content="hi")
ANSWERED = Message(role="assistant", content="yes")


class Answering:
    """Replaces a `Client`: accepts everything, and records its requests."""

    def __init__(self) -> None:
        self.sent: list[ChatInput] = []

    async def stream(self, chat: ChatInput, **_: object) -> AsyncGenerator[TurnEvent, None]:
        self.sent.append(chat)
        yield TokenDelta(text="yes")
        yield TurnEnd(finish_reason=FinishReason.STOP)


def talk() -> Session:
    return Session(cast("Client", Answering()), SessionId("s"), [])


async def take(session: Session, *new: Any) -> None:
    async for _ in session.turn(*new):
        pass


@pytest.mark.parametrize(
    ("new", "messages"),
    [
        ((ASKED,), [HI]),
        (([ASKED],), [HI]),
        ((["hi", HI, ASKED],), [HI] * 3),
        (("hi", [ASKED], HI), [HI] * 3),
        (({"role": "user", "content": [{"type": "text", "text": "hi"}]},), None),
        (({"role": "tool", "content": "", "tool_call_id": "1"},), None),
    ],
)
async def test_a_turn_accepts_texts_messages_dictionaries_and_lists_of_them(
    new: tuple[Any, ...], messages: list[Message] | None
) -> None:
    session = talk()

    await take(session, *new)

    assert session.messages[-1] == ANSWERED
    assert messages is None or session.messages[:-1] == messages


async def test_a_dictionary_put_into_the_history_is_a_message() -> None:
    session = talk()
    session.messages.append(cast("Message", ASKED))

    await take(session)

    assert session.messages == [HI, ANSWERED]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ((None,), r"^the message must be a text, a segue.Message, a dictionary .*, got None$"),
        ((5,), r"the message must be .* got a number, 5$"),
        (("hi", {1, 2}), r"message 1 of the turn must be .* got a set"),
        (([ASKED, 5],), r"the message\[1\] must be .* got a number, 5$"),
        (({"content": "hi"},), r"the message must be an object with a role"),
        (({"role": "user", "content": 5},), r"the message.content must be a text or a list"),
        (("",), "the message is empty"),
        (("hi", " \n"), "message 1 of the turn is empty"),
        (({"role": "user"},), r"the message.content: expected a text or a list of parts, got none"),
        (({"role": "user", "content": ""},), "the message is empty"),
        ((Message(role="user"),), "the message is empty"),
    ],
)
async def test_an_invalid_or_empty_message_is_refused(new: tuple[Any, ...], message: str) -> None:
    session = talk()

    with pytest.raises(InvalidRequest, match=message):
        await take(session, *new)

    assert session.messages == []


WRONG = cast("Any", "1")
TOP_K = r"top_k \(0 keeps every token\)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SamplingParams(temperature=WRONG),
            r"^temperature must be a number between 0 and 100, got a text, '1'$",
        ),
        (lambda: SamplingParams(temperature=True), "temperature must be a number .* a boolean"),
        (lambda: SamplingParams(top_p=cast("Any", [1])), "top_p must be a number .* got a list"),
        (
            lambda: SamplingParams(top_k=WRONG),
            rf"{TOP_K} must be a whole number, got a text, '1'",
        ),
        (
            lambda: SamplingParams(top_k=cast("Any", 1.5)),
            rf"{TOP_K} must be a whole number, got a num",
        ),
        (lambda: SamplingParams(seed=WRONG), "seed must be a whole number"),
        (lambda: SamplingParams(logprobs=WRONG), "logprobs must be a whole number"),
        (lambda: SamplingParams(logit_bias=WRONG), "logit_bias must be a dictionary"),
        (lambda: SamplingParams(logit_bias={WRONG: 1.0}), "a token id of logit_bias must be a who"),
        (lambda: SamplingParams(logit_bias={1: WRONG}), r"logit_bias\[1\] must be a number"),
        (lambda: StopConditions(max_tokens=WRONG), "max_tokens must be a whole number"),
        (lambda: StopConditions(stop_strings=WRONG), "stop_strings must be a tuple or list"),
        (
            lambda: StopConditions(stop_strings=cast("Any", (5,))),
            r"stop_strings\[0\] must be a text",
        ),
        (lambda: StopConditions(stop_token_ids=cast("Any", 5)), "stop_token_ids must be a tuple"),
        (lambda: StopConditions(stop_token_ids=(WRONG,)), r"stop_token_ids\[0\] must be"),
        (lambda: StopConditions(ignore_eos=WRONG), "ignore_eos must be True or False"),
        (lambda: TextInput(cast("Any", 5)), "the prompt must be a text, got a number, 5"),
        (lambda: Message(role="user", content_parts=WRONG), "content_parts of a message must be"),
        (lambda: Message(role="user", tool_calls=WRONG), "tool_calls of a message must be a tuple"),
        (
            lambda: Message(role="user", tool_calls=({},)),
            "tool_calls .* index 0 an empty dictionary",
        ),
        (lambda: ToolCall(name="f", arguments=cast("Any", {})), "arguments of a tool call must be"),
        (lambda: ChatInput(messages=WRONG), "messages must be a tuple of Messages, got a text"),
        (lambda: ChatInput(messages=cast("Any", [ASKED])), "messages .* at index 0 a dictionary"),
        (lambda: ChatInput(messages=(), tools=WRONG), "tools must be a tuple of JSON texts"),
        (
            lambda: ChatInput(messages=(), enable_thinking=WRONG),
            "enable_thinking must be True, Fal",
        ),
        (
            lambda: ChatInput(messages=(), continue_final_message=cast("Any", [])),
            "continue_final_message must be true, false",
        ),
        (lambda: Client(cast("Any", 7411)), "target must be a text"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_fields_name(make: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        make()


def test_a_client_outside_an_event_loop_raises_a_helpful_error() -> None:
    with pytest.raises(InvalidRequest, match="none is running: create it in an async function"):
        Client()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.generate("hi"), "a turn's input must be a ChatInput, a TextInput or a Tok"),
        (lambda c: c.generate(TextInput("x"), sampling={}), "sampling must be SamplingParams"),
        (lambda c: c.generate(TextInput("x"), stop=["x"]), "stop must be StopConditions"),
        (lambda c: c.generate(TextInput("x"), session_id=5), "session_id must be a text"),
        (lambda c: c.generate(TextInput("x"), turn_id=5), "turn_id must be a text"),
        (lambda c: c.generate(TextInput("x"), timeout_s="5"), "timeout_s must be a number of sec"),
        (lambda c: c.generate(TokenInput(cast("Any", 5))), "token_ids must be a tuple"),
        (lambda c: c.generate(TokenInput((1, WRONG))), r"token_ids\[1\] must be a whole number"),
        (lambda c: c.generate(TokenInput((1, -1))), r"token_ids\[1\] must be between 0 and"),
        (lambda c: c.cancel(None), "turn_id must be a text, got None"),
        (lambda c: c.explain(5), "session_id must be a text"),
        (lambda c: c.release_session(5), "session_id must be a text"),
        (lambda c: c.renew_session("s", "5"), "lease_s must be a number of seconds"),
        (lambda c: c.renew_session("s", pause_s="5"), "pause_s must be a number of seconds"),
        (lambda c: c.fork_session("s", None), "child_id must be a text"),
        (lambda c: c.status(timeout_s="5"), "timeout_s must be a number of seconds"),
        (lambda c: c.session().pause("5"), "pause must be a number of seconds"),
        (lambda c: c.session().fork(5), "session_id must be a text"),
        (lambda c: anext(c.session().turn("x", timeout_s="5")), "timeout_s must be a number of s"),
    ],
)
async def test_a_call_refuses_another_type_before_anything_is_sent(call: Any, message: str) -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match=message):
            await call(client)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session_id": 5}, "session_id must be a text"),
        ({"system": 5}, "system must be a text, got a number, 5"),
        ({"tools": 5}, "tools must be a list"),
        ({"enable_thinking": "yes"}, "enable_thinking must be True, False or None"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be a dictionary or JSON text"),
    ],
)
async def test_a_session_refuses_options_of_another_type(
    options: dict[str, Any], message: str
) -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match=message):
            client.session(**options)


def test_the_package_exports_its_api_without_heavy_imports() -> None:
    names = ", ".join(segue.__all__)
    code = (
        f"from segue import {names}\n"
        "import sys\n"
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
