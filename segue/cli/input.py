"""What the command line takes in: files of messages and tools, token ids, sampling options."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.errors import InvalidRequest
from segue.types import ChatInput, Message, SamplingParams, StopConditions, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """The flags, as typed."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def sampling(self) -> SamplingParams:
        """What was not typed stays open. Raises InvalidRequest."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logprobs=self.logprobs,
            seed=self.seed,
        )

    def stop(self) -> StopConditions:
        return StopConditions(
            max_tokens=self.max_tokens,
            stop_strings=self.stop_strings,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
        )


def parse_token_ids(text: str) -> tuple[int, ...]:
    """`1,2,3`. Raises InvalidRequest."""
    try:
        ids = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InvalidRequest(f"--input-ids takes numbers with commas, got {text!r}") from None
    if any(not 0 <= token_id < 2**32 for token_id in ids):
        raise InvalidRequest(f"--input-ids takes numbers from 0 to 2**32 - 1, got {text!r}")
    return ids


def _read_json(path: Path) -> Any:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        return json.loads(text)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{path} is not valid JSON: {error}") from None


def read_messages(path: Path) -> ChatInput:
    """A list of messages, or an object with `messages` and `tools`, in OpenAI's shape."""
    body = _read_json(path)
    if isinstance(body, list):
        body = {"messages": body}
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise InvalidRequest(f"{path} must hold a list of messages, or an object with `messages`")
    return ChatInput(
        messages=tuple(_message(entry, path) for entry in body["messages"]),
        tools=tuple(json.dumps(tool) for tool in body.get("tools", [])),
        enable_thinking=bool(body.get("enable_thinking", False)),
    )


def read_tools(path: Path) -> tuple[str, ...]:
    tools = _read_json(path)
    if not isinstance(tools, list):
        raise InvalidRequest(f"{path} must hold a list of tools")
    return tuple(json.dumps(tool) for tool in tools)


def _message(entry: Any, path: Path) -> Message:
    if not isinstance(entry, dict) or "role" not in entry:
        raise InvalidRequest(f"{path}: a message is an object with a role, got {entry!r}")
    content = entry.get("content") or ""
    if not isinstance(content, str):
        raise InvalidRequest(f"{path}: content must be a string, got {content!r}")
    return Message(
        role=str(entry["role"]),
        content=content,
        tool_calls=tuple(_tool_call(call, path) for call in entry.get("tool_calls") or []),
        tool_call_id=str(entry.get("tool_call_id", "")),
        name=str(entry.get("name", "")),
        reasoning=str(entry.get("reasoning_content", "")),
    )


def _tool_call(call: Any, path: Path) -> ToolCall:
    try:
        function = call["function"]
        arguments = function["arguments"]
        return ToolCall(
            call_id=str(call.get("id", "")),
            name=str(function["name"]),
            arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
        )
    except (TypeError, KeyError, AttributeError):
        raise InvalidRequest(
            f"{path}: a tool call is {{'function': {{'name': …, 'arguments': …}}}}, got {call!r}"
        ) from None
