from __future__ import annotations

import json
from typing import Any, cast

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, ToolCall
from segue.text.conversation import read_conversation

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
        InvalidRequest, match=r"messages\[1\].role: expected one of system, .*'wizard'"
    ):
        read_conversation(chat(USER, Message(role="wizard")))


@pytest.mark.parametrize(
    "messages",
    [
        (CALLING, RESULT, RESULT),
        (RESULT,),
        (USER, RESULT),
        (USER, Message(role="assistant", content="hi"), RESULT),
        (CALLING, USER, RESULT),
        (USER, Message(role="assistant", content="hi")),
        (USER, Message(role="system", content="be brief")),
        (Message(role="developer", content="be brief"), USER),
    ],
)
def test_messages_may_be_in_any_order(messages: tuple[Message, ...]) -> None:
    read = read_conversation(chat(*messages)).messages

    assert [message["role"] for message in read] == [message.role for message in messages]


def test_a_content_of_parts_becomes_a_list_of_texts() -> None:
    (message,) = read_conversation(chat(Message(role="user", content_parts=("a", "b")))).messages

    assert message["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_empty_reasoning_differs_from_absent_reasoning() -> None:
    empty = Message(role="assistant", content="a", reasoning="")
    absent = Message(role="assistant", content="a")

    one, other = read_conversation(chat(empty, absent)).messages

    assert one["reasoning_content"] == one["thinking"] == ""
    assert other == {"role": "assistant", "content": "a"}


def test_a_user_message_with_tool_calls_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="user message with tool calls") as refused:
        read_conversation(chat(Message(role="user", tool_calls=(CALL,))))

    assert refused.value.field == "messages[0].tool_calls"


def test_a_call_without_a_name_is_refused() -> None:
    nameless = Message(role="assistant", tool_calls=(ToolCall(name="", arguments="{}"),))

    with pytest.raises(InvalidRequest, match="expected the name of the function") as refused:
        read_conversation(chat(USER, nameless, RESULT))

    assert refused.value.field == "messages[1].tool_calls[0]"


@pytest.mark.parametrize(
    ("arguments", "came"),
    [
        ("{city: Paris}", "not JSON"),
        ('["Paris"]', "got an array"),
        ('"Paris"', "got a string"),
        ("nullnull", "not JSON"),
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


@pytest.mark.parametrize(
    ("chatted", "example"),
    [
        (ChatInput(messages=(USER,), chat_template_kwargs="x"), '{"preserve_thinking": true}'),
        (ChatInput(messages=(USER,), tools=("x",)), '{"type": "function", "function": '),
        (ChatInput(messages=(USER,), tools=("[]",)), '{"type": "function", "function": '),
    ],
)
def test_the_error_shows_an_example_of_what_was_expected(chatted: ChatInput, example: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_conversation(chatted)

    assert f"must be a JSON object such as {example}" in str(refused.value)
    assert "Paris" not in str(refused.value)


@pytest.mark.parametrize("nothing", ["", " \n", "null", " null ", "{}"])
def test_all_forms_of_no_arguments_are_the_empty_object(nothing: str) -> None:
    message = read_conversation(chat_with_arguments(nothing)).messages[1]

    (call,) = cast("list[Any]", message["tool_calls"])
    assert call["function"]["arguments"] == {}


@pytest.mark.parametrize(
    "arguments", ['{"a": "\\ud800"}', '{"\\udfff": 1}', '{"a": [{"b": "x\\uDC00\\ud83d"}]}']
)
def test_half_of_a_surrogate_pair_in_json_is_refused(arguments: str) -> None:
    with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
        read_conversation(chat_with_arguments(arguments))
    with pytest.raises(InvalidRequest, match=r"tools\[0\].*half of a surrogate pair"):
        read_conversation(chat(USER, tools=(f'{{"name": "f", "parameters": {arguments}}}',)))
    with pytest.raises(InvalidRequest, match=r"chat_template_kwargs.*half of a surrogate pair"):
        read_conversation(ChatInput(messages=(USER,), chat_template_kwargs=arguments))


def test_a_pair_of_surrogates_is_a_character() -> None:
    message = read_conversation(chat_with_arguments('{"a": "\\ud83d\\ude00"}')).messages[1]

    (call,) = cast("list[Any]", message["tool_calls"])
    assert call["function"]["arguments"] == {"a": "😀"}


def test_an_unset_thinking_option_is_not_passed() -> None:
    assert read_conversation(chat(USER)).template_kwargs == {}
    for value in (True, False):
        thinking = ChatInput(messages=(USER,), enable_thinking=value)
        assert read_conversation(thinking).template_kwargs == {"enable_thinking": value}


def test_template_kwargs_are_a_json_object() -> None:
    kwargs = '{"preserve_thinking": true, "more": {"a": [1, null]}}'
    given = ChatInput(messages=(USER,), enable_thinking=False, chat_template_kwargs=kwargs)

    assert read_conversation(given).template_kwargs == {
        "preserve_thinking": True,
        "more": {"a": [1, None]},
        "enable_thinking": False,
    }


@pytest.mark.parametrize(
    ("kwargs", "came"),
    [
        ("[]", "got an array"),
        ("{", "not JSON"),
        ("true", "got a number or boolean"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "at most 100 levels"),
        ('{"a": "' + "x" * 65_536 + '"}', "at most 65536 characters, got 65545"),
        ('{"enable_thinking": true}', "send it once"),
    ],
)
def test_invalid_template_kwargs_are_refused(kwargs: str, came: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^chat_template_kwargs.*{came}"):
        read_conversation(
            ChatInput(messages=(USER,), enable_thinking=False, chat_template_kwargs=kwargs)
        )


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


@pytest.mark.parametrize("type_of", ["", '"type": null, '])
def test_a_tool_without_a_type_is_a_function(type_of: str) -> None:
    text = f'{{{type_of}"function": {{"name": "f"}}}}'

    assert read_conversation(chat(USER, tools=(text,))).tools == [json.loads(text)]


@pytest.mark.parametrize(
    "parameters", ["null", "{}", "[]", '{"type": "object", "properties": null}']
)
def test_a_tool_may_have_no_parameters_in_any_form(parameters: str) -> None:
    (tool,) = read_conversation(
        chat(USER, tools=(f'{{"name": "f", "parameters": {parameters}}}',))
    ).tools

    assert tool["function"] == {"name": "f", "parameters": json.loads(parameters)}


@pytest.mark.parametrize(
    ("tool", "came"),
    [
        ("get_weather", "not JSON"),
        ("[]", "got an array"),
        ("{}", "no members"),
        ('{"type": "function"}', "got an object with 'type'"),
        ('{"type": "retrieval", "function": {"name": "f"}}', "must be"),
        ('{"type": "function", "function": "f"}', "must be"),
    ],
)
def test_a_malformed_tool_is_refused_with_its_index(tool: str, came: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"(?s)tools\[1\].*{came}"):
        read_conversation(chat(USER, tools=(TOOL, tool)))


@pytest.mark.parametrize(
    ("tool", "field", "says"),
    [
        ('{"type": "function", "function": {}}', "function.name", "expected a string, got None"),
        ('{"function": {"name": 3}}', "function.name", "expected a string, got 3"),
        ('{"name": ""}', "name", "expected a string, got ''"),
        (
            '{"function": {"name": "f", "parameters": [1]}}',
            "function.parameters",
            "expected a JSON schema object for 'f', got an array",
        ),
        (
            '{"name": "f", "parameters": "none"}',
            "parameters",
            "expected a JSON schema object for 'f', got a string",
        ),
    ],
)
def test_a_wrong_member_of_a_tool_is_the_errors_field(tool: str, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        read_conversation(chat(USER, tools=(TOOL, tool)))

    assert refused.value.field == f"tools[1].{field}"
