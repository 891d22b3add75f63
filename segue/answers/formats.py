"""Selects the parsers for a checkpoint's answers, by name or by its chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass

from segue.api.errors import InvalidRequest
from segue.api.messages import THINK_START

TOOL_CALL_FORMATS: dict[str, tuple[str, ...]] = {
    "auto": ("qwen3_coder", "hermes"),
    "qwen3_coder": ("qwen3_coder",),
    "hermes": ("hermes",),
    "none": (),
}
"""The formats of calls that each parser reads. Without a template, `auto` reads all."""
REASONING_PARSERS = ("auto", "qwen3", "none")

# A template may write the quotes inside a string of its own.
_NAME_IN_JSON = re.compile(r'\\?"name\\?"\s*:')


def _require_known(field: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InvalidRequest(
            f"the parser of {field} must be one of {', '.join(known)}, got {name!r:.80}"
        )


@dataclass(frozen=True, slots=True)
class ParserNames:
    """Raises InvalidRequest for unknown names."""

    tool_calls: str = "auto"
    reasoning: str = "auto"

    def __post_init__(self) -> None:
        _require_known("tool_calls", self.tool_calls, tuple(TOOL_CALL_FORMATS))
        _require_known("reasoning", self.reasoning, REASONING_PARSERS)


AUTO = ParserNames()


def parsers_for(template: str, names: ParserNames = AUTO) -> ParserNames:
    """Replaces `auto` by the format that the checkpoint's chat template (its text) writes. Tool
    calls stay `auto` if the template writes no known format.
    """
    tool_calls, reasoning = names.tool_calls, names.reasoning
    if tool_calls == "auto" and "<function=" in template:
        tool_calls = "qwen3_coder"
    elif tool_calls == "auto" and "<tool_call>" in template and _NAME_IN_JSON.search(template):
        tool_calls = "hermes"
    if reasoning == "auto":
        reasoning = "qwen3" if THINK_START in template else "none"
    return ParserNames(tool_calls, reasoning)


def opens_reasoning(prompt: str) -> bool:
    """Whether a rendered prompt ends in an open <think>, so that the answer starts inside it."""
    return prompt.rstrip().endswith(THINK_START)
