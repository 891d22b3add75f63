"""The calls in an answer's text, in the format of Qwen3.5's chat templates.

    One moment.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

An answer that is anything but text and then whole calls stays text: nothing is lost or repaired.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from segue.types import Message, ToolCall

_CALL = re.compile(r"\s*<tool_call>\s*<function=([^>\n]+)>(.*?)</function>\s*</tool_call>\s*", re.S)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n(.*?)\n</parameter>\s*", re.S)


def read_answer(text: str, tools: Sequence[str]) -> Message:
    """An assistant's message. `tools` are those that could be called, as in `ChatInput`."""
    # What is thought about calls, before the answer, calls nothing.
    start = text.find("<tool_call>", text.rfind("</think>") + 1)
    found = _all(_CALL, text[start:]) if tools and start >= 0 else []
    calls = [_call(name, body, tools) for name, body in found]
    if not calls or None in calls:
        return Message(role="assistant", content=text)
    return Message(
        role="assistant",
        content=text[:start].rstrip("\n"),
        tool_calls=tuple(call for call in calls if call is not None),
    )


def _call(name: str, body: str, tools: Sequence[str]) -> ToolCall | None:
    parameters = _all(_PARAMETER, body)
    if not parameters and body.strip():
        return None
    types = _types(name, tools)
    arguments = {key: _value(text, types.get(key)) for key, text in parameters}
    if len(arguments) < len(parameters):
        return None
    return ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))


def _all(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """The two groups of each match; none unless the matches make up the whole text."""
    found, position = [], 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            return []
        found.append((match[1], match[2]))
        position = match.end()
    return found


def _value(text: str, kind: object) -> Any:
    """JSON where the tool's schema says so, otherwise text, as which templates repeat it."""
    if kind in (None, "string"):
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _types(name: str, tools: Sequence[str]) -> Mapping[str, object]:
    """Of the parameters of one tool. The router has checked the tools: they are JSON objects."""
    for tool in map(json.loads, tools):
        function = tool.get("function", tool)
        if function.get("name") == name:
            properties = function.get("parameters", {}).get("properties", {})
            return {
                key: schema.get("type")
                for key, schema in properties.items()
                if isinstance(schema, dict)
            }
    return {}
