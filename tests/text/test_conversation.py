from __future__ import annotations

import pytest

from segue.errors import InvalidRequest
from segue.text.conversation import read_conversation
from segue.types import ChatInput, Message, ToolCall

USER = Message(role="user", content="What is the weather in Paris?")
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}', call_id="c1")
CALLING = Message(role="assistant", tool_calls=(CALL,))
RESULT = Message(role="tool", content="sunny", tool_call_id="c1", name="get_weather")
TOOL = '{"type": "function", "function": {"name": "get_weather", "parameters": {}}}'


def chat(*messages: Message, tools: tuple[str, ...] = ()) -> ChatInput:
    return ChatInput(messages=messages, tools=tools)


def chat_with_arguments(arguments: str) -> ChatInput:
    call = ToolCall(name="get_weather", arguments=arguments)
    return chat(USER, Message(role="assistant", tool_calls=(call,)), RESULT)


def test_messages_become_the_fields_that_templates_read() -> None:
    thought = Message(role="assistant", content="hm", reasoning="because")

    conversation = read_conversation(chat(USER, thought, CALLING, RESULT))

    assert conversation.messages == [
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": "hm",
            "reasoning_content": "because",
            "thinking": "because",
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
                    "id": "c1",
                }
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "get_weather"},
    ]


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        read_conversation(chat())


def test_an_unknown_role_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        InvalidRequest, match=r"messages\[1\].*'wizard': use one of system, user, assistant, tool"
    ):
        read_conversation(chat(USER, Message(role="wizard")))


def test_an_assistant_message_at_the_end_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="last message is an assistant message"):
        read_conversation(chat(USER, Message(role="assistant", content="hi")))


def test_several_tool_messages_may_answer_one_assistant_message() -> None:
    assert len(read_conversation(chat(USER, CALLING, RESULT, RESULT)).messages) == 4


@pytest.mark.parametrize(
    "before", [(), (USER,), (USER, Message(role="assistant", content="hi")), (CALLING, USER)]
)
def test_a_tool_message_without_a_call_before_it_is_refused(before: tuple[Message, ...]) -> None:
    with pytest.raises(InvalidRequest, match=rf"messages\[{len(before)}\] is a tool message"):
        read_conversation(chat(*before, RESULT))


def test_a_user_message_with_tool_calls_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="user message with tool calls"):
        read_conversation(chat(Message(role="user", tool_calls=(CALL,))))


def test_a_call_without_a_name_is_refused() -> None:
    nameless = Message(role="assistant", tool_calls=(ToolCall(name="", arguments="{}"),))

    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.tool_calls\[0\] has no name"):
        read_conversation(chat(USER, nameless, RESULT))


@pytest.mark.parametrize(
    ("arguments", "came"),
    [
        ("", "not JSON"),
        ("{city: Paris}", "not JSON"),
        ('["Paris"]', "got an array"),
        ('"Paris"', "got a string"),
        ("null", "got null"),
        ("3", "got a number"),
        ('{"days": NaN}', "NaN is not JSON"),
        ("9" * 5000, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "at most 100 levels"),
    ],
)
def test_arguments_that_are_no_json_object_are_refused(arguments: str, came: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"messages\[1\].*arguments.*{came}"):
        read_conversation(chat_with_arguments(arguments))


def test_a_tool_keeps_its_members_in_order() -> None:
    tool = read_conversation(chat(USER, tools=(TOOL,))).tools[0]

    assert tool == {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


@pytest.mark.parametrize(
    "bare", ['{"name": "f", "parameters": {}}', '{"type": "function", "name": "f"}']
)
def test_a_bare_function_is_wrapped(bare: str) -> None:
    (tool,) = read_conversation(chat(USER, tools=(bare,))).tools

    assert tool == {"type": "function", "function": tool["function"]}
    assert next(iter(tool["function"])) == "name"


@pytest.mark.parametrize(
    ("tool", "came"),
    [
        ("get_weather", "not JSON"),
        ("[]", "got an array"),
        ("{}", "no members"),
        ('{"type": "function"}', "got an object with 'type'"),
        ('{"type": "retrieval", "function": {"name": "f"}}', "must be"),
        ('{"type": "function", "function": "f"}', "must be"),
        ('{"type": "function", "function": {}}', "name must be a text"),
        ('{"type": "function", "function": {"name": 3}}', "name must be a text, got 3"),
        ('{"name": "f", "parameters": "none"}', "must be a JSON schema object, got a string"),
    ],
)
def test_a_malformed_tool_is_refused_with_its_index(tool: str, came: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"(?s)tools\[1\].*{came}"):
        read_conversation(chat(USER, tools=(TOOL, tool)))
