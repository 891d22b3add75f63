"""A session's tools: dictionaries or JSON text; invalid ones are refused by the call that gets
them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message
from segue.sdk.client import Client
from segue.sdk.inputs import tools_as_text
from segue.text.conversation import read_conversation

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Météo d'une ville.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
INNER = TOOL["function"]


@pytest.mark.parametrize("tool", [TOOL, INNER], ids=["whole", "function alone"])
def test_a_dictionary_equals_its_json_text(tool: dict[str, Any]) -> None:
    (from_dictionary,) = tools_as_text([tool])
    (from_text,) = tools_as_text([json.dumps(tool, ensure_ascii=False)])

    assert from_dictionary == from_text
    assert json.loads(from_dictionary) == tool


def test_a_text_is_sent_unchanged() -> None:
    # A template writes a tool's members in their order, so the text must not change.
    text = '{ "function": {"parameters": {}, "name": "f"},   "type": "function" }'

    assert tools_as_text([text, TOOL])[0] == text


def test_no_tools_are_none() -> None:
    assert tools_as_text(()) == tools_as_text([]) == ()


@pytest.mark.parametrize("tool", [TOOL, INNER])
def test_the_router_accepts_what_a_session_accepts(tool: dict[str, Any]) -> None:
    chat = ChatInput(messages=(Message(role="user", content="?"),), tools=tools_as_text([tool]))

    assert read_conversation(chat).tools == [TOOL]


async def test_a_session_and_its_fork_send_the_tools() -> None:
    async with Client("127.0.0.1:1") as client:
        session = client.session(tools=[TOOL, json.dumps(INNER)])
        again = client.session(tools=session._tools)

    assert [json.loads(text) for text in session._tools] == [TOOL, INNER]
    assert again._tools == session._tools


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (TOOL, "tools must be a list of tools"),
        (json.dumps(TOOL), "tools must be a list of tools"),
        (None, "tools must be a list of tools .* got None"),
        ([TOOL, 7], r"tools\[1\] must be .* got a number, 7"),
        ([TOOL, None], r"tools\[1\] must be .* got None"),
        ([[TOOL]], r"tools\[0\] must be .* got a list"),
        (["get_weather"], r"tools\[0\] must be .* not JSON"),
        (["[1]"], r"tools\[0\] must be .* JSON of a list"),
        (['{"name": "f", "x": NaN}'], r"tools\[0\] must be .* NaN is not JSON"),
        ([{"name": "f", "x": float("inf")}], r"tools\[0\] must be .* JSON does not have"),
        ([{"name": "f", "x": {1, 2}}], r"tools\[0\] must be .* JSON does not have"),
        ([{"type": "function"}], r"tools\[0\] must be .* no name of a function"),
        ([{"function": "get_weather"}], r"tools\[0\] must be .* no name of a function"),
        ([{"function": {"name": ""}}], r"tools\[0\] must be .* no name of a function"),
        ([{"function": {"name": 3}}], r"tools\[0\] must be .* no name of a function"),
    ],
)
async def test_an_invalid_tool_is_refused_by_the_call_that_gets_it(
    tools: Any, message: str
) -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match=message):
            client.session(tools=tools)
