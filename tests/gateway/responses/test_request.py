"""Requests of the Responses API, as the turns that they want."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput
from segue.gateway.http.door import Visit
from segue.gateway.openai.responses.request import ResponseRequest
from segue.gateway.openai.responses.tools import read_tools
from segue.gateway.turns import GenerationRequest

SHELL = {"type": "function", "name": "shell", "strict": False, "parameters": {"type": "object"}}
LOOK = {"type": "function", "name": "look", "description": "Looks.", "parameters": {}}
VISIT = Visit(request_id="r", turn_id="t", arrived_at=0.0, headers=Headers({}))
# The shape of what Codex 0.171 sends.
CODEX: dict[str, Any] = {
    "model": "demo",
    "instructions": "You are an agent.",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [
                {"type": "input_text", "text": "Permissions."},
                {"type": "input_text", "text": "Plugins."},
            ],
        },
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "Mode."}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "List the files."}],
        },
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "SG0u"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
        {"type": "function_call", "name": "shell", "arguments": '{"c": "ls"}', "call_id": "c1"},
        {
            "type": "function_call",
            "name": "look",
            "namespace": "mcp__disk",
            "arguments": "{}",
            "call_id": "c2",
        },
        {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "nothing"}],
        },
    ],
    "tools": [
        SHELL,
        {"type": "namespace", "name": "mcp__disk", "description": "Disks.", "tools": [LOOK]},
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
        {"type": "local_shell"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "thread-1",
    "text": {"verbosity": "low"},
    "client_metadata": {"x": "y"},
}


def wanted(visit: Visit = VISIT, **fields: Any) -> GenerationRequest:
    body = ResponseRequest.model_validate({"input": "Hello", **fields})
    return body.wanted(visit, read_tools(body.tools or ()))


def chat(**fields: Any) -> ChatInput:
    (turn_input,) = wanted(**fields).inputs
    assert isinstance(turn_input, ChatInput)
    return turn_input


def test_codexs_request_is_a_chat() -> None:
    system, first, second, user, said, result, other = chat(**CODEX).messages

    assert (system.role, system.content) == ("system", "You are an agent.")
    assert (first.role, first.content_parts) == ("developer", ("Permissions.", "Plugins."))
    assert (second.role, second.content) == ("developer", "Mode.")
    assert (user.role, user.content) == ("user", "List the files.")
    assert (said.role, said.reasoning, said.content) == ("assistant", "Hm.", "Let me see.")
    assert [(call.call_id, call.name, call.arguments) for call in said.tool_calls] == [
        ("c1", "shell", '{"c": "ls"}'),
        ("c2", "mcp__disk__look", "{}"),
    ]
    assert (result.role, result.tool_call_id, result.content) == ("tool", "c1", "a.txt")
    assert (other.role, other.tool_call_id, other.content) == ("tool", "c2", "nothing")


def test_the_model_sees_functions_only() -> None:
    tools = [json.loads(tool) for tool in chat(**CODEX).tools]

    assert tools == [
        {"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}},
        {
            "type": "function",
            "function": {"name": "mcp__disk__look", "description": "Looks.", "parameters": {}},
        },
    ]


def test_what_else_codex_sends_reaches_the_turn() -> None:
    turn = wanted(**CODEX)
    by_header = Visit(
        request_id="r", turn_id="t", arrived_at=0.0, headers=Headers({"session-id": "s"})
    )

    assert turn.hint == "thread-1"
    assert wanted(by_header, **CODEX).hint == "s"
    assert json.loads(chat(**CODEX).chat_template_kwargs) == {
        "enable_thinking": True,
        "reasoning_effort": "medium",
    }
    assert (len(turn.tools), turn.is_single, turn.sampling.logprobs) == (2, False, None)


def test_a_text_is_a_message_of_the_user() -> None:
    (message,) = chat(input="Hello").messages

    assert (message.role, message.content) == ("user", "Hello")
    for content in ("Hello", [{"type": "input_text", "text": "Hello"}]):
        assert chat(input=[{"role": "user", "content": content}]).messages == (message,)


def test_what_is_absent_or_null_is_left_to_the_checkpoint() -> None:
    nulls: Any = dict.fromkeys(ResponseRequest.model_fields.keys() - {"input"})

    assert wanted() == wanted(**nulls)
    assert wanted().sampling.temperature is None
    assert wanted().stop.max_tokens is None
    assert chat().chat_template_kwargs == ""


def test_sampling_and_limits_reach_the_turn() -> None:
    turn = wanted(
        temperature=0.5,
        top_p=0.25,
        max_output_tokens=9,
        top_logprobs=3,
        include=["message.output_text.logprobs"],
        parallel_tool_calls=False,
    )

    assert (turn.sampling.temperature, turn.sampling.top_p) == (0.5, 0.25)
    assert (turn.sampling.logprobs, turn.stop.max_tokens, turn.is_single) == (3, 9, True)
    assert wanted(include=["message.output_text.logprobs"]).sampling.logprobs == 0


def test_tools_stay_in_the_prompt_even_if_none_may_be_called() -> None:
    assert wanted(tools=[SHELL], tool_choice="none").tools == ()
    assert chat(tools=[SHELL], tool_choice="none").tools == chat(tools=[SHELL]).tools


@pytest.mark.parametrize("namespace", ["mcp__disk", "mcp__disk__"])
def test_a_call_has_both_names_of_a_function_in_a_namespace(namespace: str) -> None:
    tools = read_tools([SHELL, {"type": "namespace", "name": namespace, "tools": [LOOK]}])

    assert tools.names("mcp__disk__look") == {"namespace": namespace, "name": "look"}
    assert tools.names("shell") == {"name": "shell"}
    assert tools.names("unknown") == {"name": "unknown"}


def test_a_plain_function_wins_over_a_namespaced_one_of_the_same_name() -> None:
    space = {"type": "namespace", "name": "a", "tools": [LOOK]}

    assert read_tools([space, {**LOOK, "name": "a__look"}]).names("a__look") == {"name": "a__look"}


@pytest.mark.parametrize(
    ("field", "value", "param", "says"),
    [
        ("tool_choice", "required", "tool_choice", "expected tools"),
        ("tool_choice", {"type": "allowed_tools"}, "tool_choice", "a named function"),
        ("text", {"format": {"type": "json_schema"}}, "text.format.schema", "a JSON schema"),
        ("reasoning", {"effort": "huge"}, "reasoning.effort", "expected one of none, minimal"),
        ("top_logprobs", 3, "top_logprobs", "in include"),
        ("tools", [{"type": "function"}], "tools[0].name", "expected a text"),
        ("tools", [{**LOOK, "parameters": "x"}], "tools[0].parameters", "expected an object"),
        ("tools", [{"type": "namespace"}], "tools[0].name", "expected a text"),
        (
            "tools",
            [{"type": "namespace", "name": "a", "tools": [{"type": "function"}]}],
            "tools[0].tools[0].name",
            "expected a text",
        ),
        ("tools", [{"type": "namespace", "name": "a", "tools": 5}], "tools[0].tools", "a list"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    field: str, value: object, param: str, says: str
) -> None:
    fields: Any = {field: value}

    with pytest.raises(InvalidRequest, match=says) as raised:
        wanted(**fields)

    assert raised.value.field == param
