"""The scripted model's answer, as a function of the prompt's text in Qwen3.5's format.

A task is a user's message with lines `RUN> COMMAND`. Each answer calls the client's shell tool with
the next command; when all have run, or without such a tool, the answer is a sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MARK = "RUN> "
FINAL = "All commands have run."
_TITLE = "Running commands"
_COMMAND_NAMES = ("command", "cmd")
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?=<\|im_end\|>)", re.DOTALL)
_COMMAND = re.compile(rf"^{re.escape(MARK)}(.+)$", re.MULTILINE)
_RESPONSE = "<tool_response>"


def task(commands: Sequence[str]) -> str:
    """A prompt for an agent."""
    lines = "\n".join(f"{MARK}{command}" for command in commands)
    return (
        f"Run these commands with your shell tool, one by one:\n{lines}\nThen say that it is done."
    )


def answer_to(prompt: str) -> str:
    """The answer's text, with the control tokens that a model would write, but without the last."""
    opening = "" if prompt.rstrip().endswith("</think>") else "\n</think>\n\n"
    shell = next(filter(None, map(_shell_tool, _tools_in(prompt))), None)
    commands, num_done = _progress(prompt)
    if shell is None or not commands:
        return f"{opening and 'A title is wanted.'}{opening}{_TITLE}"
    if num_done >= len(commands):
        return f"{opening and 'Nothing is left.'}{opening}{FINAL}"
    thought = f"Command {num_done + 1} of {len(commands)} is next.  " if opening else ""
    # White space that clients trim, and arguments in another order than theirs.
    text = f"I run command {num_done + 1}. \n\n"
    return f"{thought}{opening}{text}{_call(shell, commands[num_done])}"


class _Shell(NamedTuple):
    name: str
    arguments: Mapping[str, str]
    """Everything that it requires besides the command."""
    command_name: str
    is_list: bool
    """Whether the command is a list of words."""


def _tools_in(prompt: str) -> Iterator[Any]:
    listed = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0]
    for line in listed.splitlines():
        yield json.loads(line)


def _shell_tool(tool: Any) -> _Shell | None:
    function = tool.get("function", tool)
    schema = function.get("parameters") or {}
    properties: Mapping[str, Any] = schema.get("properties") or {}
    name = next((name for name in _COMMAND_NAMES if name in properties), None)
    if name is None:
        return None
    others = {
        required: _value(properties.get(required, {}))
        for required in schema.get("required", ())
        if required != name
    }
    return _Shell(function["name"], others, name, properties[name].get("type") == "array")


def _value(schema: Mapping[str, Any]) -> str:
    return {"boolean": "false", "integer": "10000", "number": "10000"}.get(
        schema.get("type", ""), "Runs a command"
    )


def _progress(prompt: str) -> tuple[list[str], int]:
    """The commands of the last task, and how many have results."""
    commands: list[str] = []
    num_done = 0
    for role, text in _TURN.findall(prompt):
        if role != "user":
            continue
        if text.lstrip().startswith(_RESPONSE):
            num_done += text.count(_RESPONSE)
        elif found := _COMMAND.findall(text):
            commands, num_done = found, 0
    return commands, num_done


def _call(shell: _Shell, command: str) -> str:
    value = json.dumps(["bash", "-c", command]) if shell.is_list else command
    arguments = {**shell.arguments, shell.command_name: value}
    parameters = "".join(
        f"<parameter={name}>\n{text}\n</parameter>\n" for name, text in arguments.items()
    )
    return f"<tool_call>\n<function={shell.name}>\n{parameters}</function>\n</tool_call>"
