"""The scripted answers that agents get: which tool they call, with what, and when they end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.agents.clients import AGENTS, Where
from benchmarks.agents.script import FINAL, answer_to, task
from segue.answers import AnswerParser, gather

TASK = f"<|im_start|>user\nRemember: brief.\n\n{task(['ls -a', 'wc -l < it'])}<|im_end|>\n"
RESULT = "<|im_start|>user\n<tool_response>\n.\n</tool_response><|im_end|>\n"
ANSWER = "<|im_start|>assistant\n<think>\n"
SHELLS: dict[str, Any] = {
    "plain": {"properties": {"command": {"type": "string"}}, "required": ["command"]},
    "more": {
        "properties": {"cmd": {"type": "string"}, "is_background": {"type": "boolean"}},
        "required": ["cmd", "is_background"],
    },
    "words": {"properties": {"command": {"type": "array"}}, "required": ["command"]},
}
CALLS: dict[str, Any] = {
    "plain": {"command": "wc -l < it"},
    "more": {"cmd": "wc -l < it", "is_background": False},
    "words": {"command": ["bash", "-c", "wc -l < it"]},
}


def system(*schemas: Any) -> str:
    tools = [
        {"type": "function", "function": {"name": f"tool_{index}", "parameters": schema}}
        for index, schema in enumerate(schemas)
    ]
    listed = "\n".join(map(json.dumps, tools))
    return f"<|im_start|>system\n# Tools\n\n<tools>\n{listed}\n</tools><|im_end|>\n"


@pytest.mark.parametrize("kind", SHELLS)
def test_the_shell_tool_is_called_with_the_next_command(kind: str) -> None:
    tools = system({"properties": {"path": {"type": "string"}}}, SHELLS[kind])
    names = [{"name": "tool_1", "parameters": SHELLS[kind]}]
    called = "<|im_start|>assistant\nI run it.<|im_end|>\n"
    text = answer_to(f"{tools}{TASK}{called}{RESULT}{ANSWER}")

    parser = AnswerParser(tools=list(map(json.dumps, names)), starts_in_reasoning=True)
    (call,) = gather(parser.push(text) + parser.finish(is_whole=True)).tool_calls
    assert (call.name, json.loads(call.arguments)) == ("tool_1", CALLS[kind])


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (system(SHELLS["plain"]) + TASK + RESULT * 2 + ANSWER, FINAL),
        (TASK + ANSWER, "Running commands"),
        (system({}) + TASK + ANSWER, "Running commands"),
        (system(SHELLS["plain"]) + ANSWER, "Running commands"),
    ],
    ids=["after the last result", "without tools", "without a shell", "without a task"],
)
def test_other_answers_are_sentences(prompt: str, answer: str) -> None:
    assert answer_to(prompt).endswith(f"</think>\n\n{answer}")
    assert answer_to(f"{prompt}\n</think>\n\n") == answer


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.program)
def test_an_agent_knows_only_its_home_and_the_gateway(agent: Any, tmp_path: Any) -> None:
    where = Where(tmp_path, "http://127.0.0.1:5", "demo", "Do it.", resumes=True)
    arguments, environment = agent.command(tmp_path / "program", where)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    shown = [*arguments, *environment.values(), *(path.read_text() for path in files)]

    assert arguments[-1] == "Do it."
    assert environment["HOME"] == str(tmp_path)
    assert any("http://127.0.0.1:5" in text for text in shown)
    assert not any("https://" in text for text in shown)
