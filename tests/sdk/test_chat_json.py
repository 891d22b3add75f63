from __future__ import annotations

import json
from typing import Any

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, ToolCall
from segue.sdk.chat_json import read_chat, read_tools

ASK: dict[str, Any] = {"role": "user", "content": "q"}


def test_null_means_absent_in_every_field() -> None:
    message = {
        "role": "assistant",
        **dict.fromkeys(("content", "tool_calls", "tool_call_id", "name", "reasoning_content")),
    }
    call = {"id": None, "type": None, "function": {"name": "now", "arguments": None}}
    body = {
        "messages": [ASK, message, {"role": "assistant", "tool_calls": [call]}],
        **dict.fromkeys(
            ("tools", "enable_thinking", "chat_template_kwargs", "continue_final_message")
        ),
    }

    assert read_chat(body) == ChatInput(
        messages=(
            Message(role="user", content="q"),
            Message(role="assistant"),
            Message(role="assistant", tool_calls=(ToolCall(name="now", arguments="null"),)),
        )
    )


def test_every_field_of_a_chat_is_read() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {"a": ["ü"]}}}
    bare = {"name": "g", "arguments": '{"b":  1}'}
    body = {
        "model": "ignored",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be"}, {"text": " brief"}]},
            {"role": "assistant", "content": "a", "reasoning": "", "tool_calls": [call, bare]},
            {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f", "refusal": None},
        ],
        "tools": [{"name": "f", "parameters": None}],
        "enable_thinking": False,
        "chat_template_kwargs": {"preserve_thinking": True},
        "continue_final_message": True,
    }

    assert read_chat(body) == ChatInput(
        messages=(
            Message(role="developer", content_parts=("be", " brief")),
            Message(
                role="assistant",
                content="a",
                reasoning="",
                tool_calls=(
                    ToolCall(call_id="1", name="f", arguments='{"a": ["ü"]}'),
                    ToolCall(name="g", arguments='{"b":  1}'),
                ),
            ),
            Message(role="tool", content="r", tool_call_id="1", name="f"),
        ),
        tools=('{"name": "f", "parameters": null}',),
        enable_thinking=False,
        chat_template_kwargs='{"preserve_thinking": true}',
        continue_final_message=True,
    )


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_has_three_names(name: str) -> None:
    (message,) = read_chat([{"role": "assistant", name: "hm"}]).messages

    assert message.reasoning == "hm"


def test_the_first_given_name_of_reasoning_counts() -> None:
    both = {"role": "assistant", "reasoning": "b", "reasoning_content": "a", "thinking": "c"}

    assert read_chat([both]).messages[0].reasoning == "a"
    assert read_chat([{**both, "reasoning_content": None}]).messages[0].reasoning == "c"
    assert read_chat([{**both, "reasoning_content": ""}]).messages[0].reasoning == ""


WRONG: list[tuple[object, str]] = [
    (None, "a list of messages"),
    ("hello", "a list of messages"),
    ({}, "a list of messages"),
    ({"messages": None}, "a list of messages"),
    ({"messages": {"role": "user"}}, "a list of messages"),
    (["hello"], r"messages\[0\] must be an object with a role, got 'hello'"),
    ([{"content": "x"}], r"messages\[0\] must be an object with a role"),
    ([{"role": 3}], "with a role"),
    ([ASK, {"role": "user", "content": 5}], r"messages\[1\].content must be a text or a list"),
    ([{"role": "user"}], r"messages\[0\].content: expected a text or a list of parts, got none"),
    ([ASK, {"role": "system", "content": None}], r"messages\[1\].content: expected a text"),
    ([{"role": "user", "content": {"text": "a"}}], "must be a text or a list of parts"),
    ([{"role": "user", "content": ["a"]}], r"content\[0\] must be .*got 'a'"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        r"content\[0\] must be .*got 'image_url': only text is served",
    ),
    ([{"role": "user", "content": [{"image": "x", "text": "a"}]}], "got 'image': only text"),
    (
        [{"role": "user", "content": [{"type": "text", "text": "a", "image_url": {"url": "x"}}]}],
        "got 'image_url': only text is served",
    ),
    ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text must be a text"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "text must be a JSON string"),
    ([{"role": "assistant", "reasoning": 3}], "reasoning must be a JSON string, got 3"),
    ([{"role": "assistant", "tool_calls": {}}], "tool_calls must be a JSON array"),
    ([{"role": "assistant", "tool_calls": ["f"]}], r"tool_calls\[0\] must be .*got 'f'"),
    ([{"role": "assistant", "tool_calls": [{"function": "f"}]}], r"tool_calls\[0\] must be"),
    ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "name must be a text"),
    ([{"role": "tool", "tool_call_id": 7}], "tool_call_id must be a JSON string, got 7"),
    ({"messages": [ASK], "tools": {}}, "tools must be a JSON array"),
    ({"messages": [ASK], "enable_thinking": 1}, "enable_thinking must be a JSON boolean, got 1"),
    ({"messages": [ASK], "enable_thinking": "no"}, "enable_thinking must be a JSON boolean"),
    ({"messages": [ASK], "chat_template_kwargs": "{}"}, "must be a JSON object"),
    ({"messages": [ASK], "continue_final_message": 1.5}, "continue_final_message must be"),
    ({"messages": [ASK], "continue_final_message": 1}, "continue_final_message must be"),
    ({"messages": [ASK], "continue_final_message": []}, "continue_final_message must be"),
    ({"messages": [ASK], "tools": [{"a": float("nan")}]}, "JSON can express"),
    (json.loads('[{"role": "user", "content": "\\ud800"}]'), "half of a surrogate pair"),
    ({"messages": [ASK], "tools": ["\udfff"]}, "half of a surrogate pair"),
]


@pytest.mark.parametrize(("body", "reason"), WRONG)
def test_an_invalid_value_is_refused_with_its_path(body: object, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        read_chat(body)


def test_tools_keep_the_order_of_their_members() -> None:
    assert read_tools([{"b": 1, "a": None}]) == ('{"b": 1, "a": null}',)
