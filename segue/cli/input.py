"""The command line's inputs: files of messages and tools, token ids, sampling options."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, JsonSchema, TextInput, TokenInput, TurnInput
from segue.sdk import chat_json
from segue.sdk.chat_json import read_chat

JsonSchemaFile = Annotated[
    Path | None, typer.Option(help="JSON file: the answer is JSON that is valid by this schema.")
]


def schema_in(path: Path | None) -> JsonSchema | None:
    """Raises InvalidRequest."""
    return None if path is None else JsonSchema(chat_json.to_json(_read_json(path)))


def parse_token_ids(text: str) -> tuple[int, ...]:
    """`1,2,3`. Raises InvalidRequest."""
    try:
        ids = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InvalidRequest(f"--input-ids takes comma-separated numbers, got {text!r}") from None
    if any(not 0 <= token_id < 2**32 for token_id in ids):
        raise InvalidRequest(f"--input-ids takes numbers from 0 to 2**32 - 1, got {text!r}")
    return ids


def _read_json(path: Path) -> Any:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8-sig")
        return json.loads(text)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None
    # Not UTF-8, not JSON, or numbers or nesting beyond the limits of Python's parser.
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not valid JSON: {error}") from None


def read_messages(path: Path) -> ChatInput:
    """A list of messages, or an object with `messages` and `tools`, in OpenAI's format."""
    body = _read_json(path)
    with _of_file(path):
        return read_chat(body)


def read_tools(path: Path) -> tuple[str, ...]:
    tools = _read_json(path)
    if not isinstance(tools, list):
        raise InvalidRequest(f"{path} must hold a list of tools")
    with _of_file(path):
        return chat_json.read_tools(tools)


def one_input(prompt: str | None, messages: Path | None, input_ids: str | None) -> TurnInput:
    """The input of `segue generate`. Raises InvalidRequest."""
    flags = {"--prompt": prompt, "--messages": messages, "--input-ids": input_ids}
    given = [name for name, value in flags.items() if value is not None]
    if len(given) != 1:
        raise InvalidRequest(
            "give exactly one of --prompt, --messages and --input-ids, got "
            + (" and ".join(given) or "none")
        )
    if messages is not None:
        return read_messages(messages)
    if input_ids is not None:
        return TokenInput(parse_token_ids(input_ids))
    return TextInput(prompt or "")


def with_template_options(chat: ChatInput, thinking: bool | None, kwargs: str) -> ChatInput:
    """The flags override the file."""
    return replace(
        chat,
        enable_thinking=chat.enable_thinking if thinking is None else thinking,
        chat_template_kwargs=kwargs or chat.chat_template_kwargs,
    )


@contextlib.contextmanager
def _of_file(path: Path) -> Iterator[None]:
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error}") from None
