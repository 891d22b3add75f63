"""What a session keeps of an answer and sends again, against a client with fixed answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, cast

import pytest

from segue.api.errors import InvalidRequest
from segue.api.history import digests
from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent
from segue.api.types import ChatInput, Message, SessionId
from segue.sdk.client import Client
from segue.sdk.session import Session

CALL = "<tool_call>\n<function=f>\n<parameter=a>\nb\n</parameter>\n</function>\n</tool_call>"


class FixedAnswers:
    """Replaces a `Client`: gives fixed answers, and records its requests."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.end = TurnEnd(finish_reason=FinishReason.STOP)
        self.sent: list[ChatInput] = []

    async def stream(self, chat: ChatInput, **_: object) -> AsyncGenerator[TurnEvent, None]:
        self.sent.append(chat)
        num_kept = len(chat.messages) + (chat.continues.num_messages if chat.continues else 0)
        for character in self.answers.pop(0):
            yield TokenDelta(text=character)
        yield replace(self.end, kept_messages=num_kept)


def session(client: FixedAnswers, **options: Any) -> Session:
    return Session(cast("Client", client), SessionId("s"), [], **options)


async def say(talk: Session, *new: str | Message, **options: Any) -> Message:
    async for _ in talk.turn(*new, **options):
        pass
    return talk.messages[-1]


@pytest.mark.parametrize(
    ("answer", "reasoning", "content"),
    [
        ("yes", None, "yes"),
        ("hm\n</think>\n\nyes", "hm", "yes"),
        ("<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        ("\n</think>\n\nyes", "", "yes"),
        ("hm\n</think>\n\nthe tag </think> ends it", "hm", "the tag </think> ends it"),
        ("hm\n</think>", "hm", ""),
    ],
)
async def test_reasoning_is_kept_in_its_own_field(
    answer: str, reasoning: str | None, content: str
) -> None:
    remembered = await say(session(FixedAnswers(answer)), "q")

    assert remembered == Message(role="assistant", content=content, reasoning=reasoning)


@pytest.mark.parametrize(
    "options",
    [{"enable_thinking": False}, {"chat_template_kwargs": '{"enable_thinking": false}'}],
)
async def test_without_thinking_there_is_no_reasoning(options: dict[str, Any]) -> None:
    answer = await say(session(FixedAnswers("a </think> b"), **options), "q")

    assert answer == Message(role="assistant", content="a </think> b")


async def test_reasoning_before_a_call_is_kept_beside_it() -> None:
    talk = session(FixedAnswers(f"hm\n</think>\n\nWait.\n\n{CALL}"), tools=('{"name": "f"}',))

    answer = await say(talk, "q")

    assert (answer.reasoning, answer.content) == ("hm", "Wait.")
    assert [call.name for call in answer.tool_calls] == ["f"]


@pytest.mark.parametrize(
    ("end", "is_call"),
    [
        (TurnEnd(finish_reason=FinishReason.STOP), True),
        (TurnEnd(finish_reason=FinishReason.STOP, stop_match="</parameter>"), True),
        (TurnEnd(finish_reason=FinishReason.STOP, stop_match="\n\n"), False),
        (TurnEnd(finish_reason=FinishReason.LENGTH), False),
        (TurnEnd(finish_reason=FinishReason.CANCELLED), False),
    ],
)
async def test_an_incomplete_call_counts_unless_the_answer_was_cut_off(
    end: TurnEnd, is_call: bool
) -> None:
    client = FixedAnswers(CALL.partition("\n</parameter>")[0])
    client.end = end

    answer = await say(session(client, tools=('{"name": "f"}',)), "q")

    assert [call.arguments for call in answer.tool_calls] == (['{"a": "b"}'] if is_call else [])


async def test_an_answer_continues_the_clients_partial_message() -> None:
    client = FixedAnswers(" upon a time", "the end")
    talk = session(client, chat_template_kwargs='{"a": 1}')
    partial = Message(role="assistant", content="Once", reasoning="")

    answer = await say(talk, "q", partial, continue_final_message=True)
    await say(talk, "and then?")

    assert answer == Message(role="assistant", content="Once upon a time", reasoning="")
    assert [message.role for message in talk.messages] == ["user", "assistant", "user", "assistant"]
    first, second = client.sent
    assert first.continued_field == "content"
    assert first.chat_template_kwargs == '{"a": 1}'
    # The router has the partial message, so the whole one is sent again.
    whole = ChatInput(messages=tuple(talk.messages[:3]), chat_template_kwargs='{"a": 1}')
    assert second.continues is not None
    assert second.continues.digest == digests(whole)[0]
    assert second.messages == whole.messages[1:]
    assert second.continued_field == ""


async def test_the_last_answer_can_be_continued() -> None:
    client = FixedAnswers("one, two", ", three")
    talk = session(client)

    await say(talk, "count")
    answer = await say(talk, continue_final_message=True)

    assert answer.content == "one, two, three"
    assert len(talk.messages) == 2


async def test_continued_reasoning_ends_in_an_answer() -> None:
    partial = Message(role="assistant", reasoning="Let me")
    talk = session(FixedAnswers(" see.\n</think>\n\nDone."))

    answer = await say(talk, "q", partial, continue_final_message="reasoning")

    assert answer == Message(role="assistant", content="Done.", reasoning="Let me see.")


async def test_options_apply_to_the_session_and_its_fork() -> None:
    client = Client()
    parent = client.session(enable_thinking=None, chat_template_kwargs={"effort": "ü"})
    assert parent._chat_template_kwargs == '{"effort": "ü"}'

    with pytest.raises(InvalidRequest, match="JSON can express"):
        client.session(chat_template_kwargs={"a": object()})
    await client.close()


async def test_a_turn_overtaken_by_another_one_raises() -> None:
    talk = session(FixedAnswers("first", "second"))
    async with contextlib.aclosing(talk.turn("a")) as first:
        await anext(first)
        assert await say(talk, "b") == Message(role="assistant", content="second")
        with pytest.raises(InvalidRequest, match="wait for a turn's end"):
            async for _ in first:
                pass

    assert [message.content for message in talk.messages] == ["b", "second"]


async def test_an_abandoned_turn_does_not_disturb_the_next_one() -> None:
    talk = session(FixedAnswers("first", "second"))
    left = talk.turn("a")
    await anext(left)
    assert await say(talk, "b") == Message(role="assistant", content="second")
    await left.aclose()


LONE = "a\ud800"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Message(role="user", content=LONE),
        lambda: Message(role=LONE),
        lambda: Message(role="user", content_parts=("a", LONE)),
        lambda: Message(role="assistant", reasoning=LONE),
        lambda: Message(role="tool", tool_call_id=LONE),
        lambda: Message(role="tool", name=LONE),
        lambda: ChatInput(messages=(), tools=(LONE,)),
        lambda: ChatInput(messages=(), chat_template_kwargs=LONE),
        lambda: Message(role="user", content=cast("str", 5)),
        lambda: Message(role="user", content="a", content_parts=("b",)),
        lambda: ChatInput(messages=(), continue_final_message="tool_calls"),
    ],
)
def test_an_input_without_a_valid_prompt_is_refused_at_once(make: Any) -> None:
    with pytest.raises(InvalidRequest):
        make()


async def test_names_that_are_not_unicode_are_refused_before_anything_is_sent() -> None:
    async with Client("127.0.0.1:1") as client:
        for call in (client.cancel, client.explain, client.release_session, client.renew_session):
            with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
                await call(LONE)
        with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
            await client.fork_session("a", LONE)
