"""Answers as models write them, and the messages that they are read as."""

from __future__ import annotations

import json

from segue.api.types import Message, ToolCall
from tests.tool_calls.streaming import read_answer

TOOLS = (
    json.dumps(
        {
            "type": "function",
            "function": {
                "name": "find",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "limit": {"type": "integer"},
                        "where": {"type": "object"},
                    },
                },
            },
        }
    ),
)
OPEN = "<tool_call>\n<function=find>\n"
END = "</function>\n</tool_call>"


def parameter(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def written(*parameters: tuple[str, str], name: str = "find") -> str:
    lines = "".join(parameter(key, value) for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{lines}</function>\n</tool_call>"


def called(arguments: str, name: str = "find") -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def assistant(content: str, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=content, tool_calls=calls)


def text_of(answer: str) -> str:
    """The value of `text` in the only call of an answer without other text."""
    message = read_answer(answer, TOOLS)
    assert message.content == ""
    (call,) = message.tool_calls
    arguments = json.loads(call.arguments)
    assert (call.name, list(arguments)) == ("find", ["text"])
    value: str = arguments["text"]
    return value
