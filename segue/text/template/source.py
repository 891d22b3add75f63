"""Reads a checkpoint's chat template, and the token names that belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.api.errors import InvalidCheckpoint

_NAMED_TOKENS = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSource:
    """A template's source; some checkpoints have a second one for chats with tools."""

    plain: str
    with_tools: str
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    """Templates know these as `bos_token`, `eos_token` and so on."""
    origin: str = "the chat template"
    """The file, for error messages."""


def read_template_source(folder: Path) -> TemplateSource | None:
    """From `chat_template.jinja`, else `tokenizer_config.json`; None if neither has one.

    Raises InvalidCheckpoint.
    """
    path = folder / "chat_template.jinja"
    config_path = folder / "tokenizer_config.json"
    config = _read_config(config_path)
    if path.is_file():
        templates, origin = {"default": _read_text(path)}, path
    else:
        templates, origin = _read_named(config.get("chat_template"), config_path), config_path
    if not templates:
        return None
    if "default" not in templates:
        raise InvalidCheckpoint(
            f'{origin}: expected a chat template named "default", got '
            f"{', '.join(sorted(templates))}: rename the one to use"
        )
    return TemplateSource(
        plain=templates["default"],
        with_tools=templates.get("tool_use", templates["default"]),
        named_tokens=_read_named_tokens(config),
        origin=str(origin),
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(_read_text(path))
    except ValueError as error:
        raise InvalidCheckpoint(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidCheckpoint(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCheckpoint(f"{path} cannot be read: {error}") from None


def _read_named(value: object, path: Path) -> dict[str, str]:
    match value:
        case None:
            return {}
        case str():
            return {"default": value}
        case list() if all(_is_named_template(item) for item in value):
            return {item["name"]: item["template"] for item in value}
        case _:
            raise InvalidCheckpoint(
                f"{path}: chat_template must be a string, "
                "or a list of objects with name and template"
            )


def _is_named_template(item: object) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("template"), str)
    )


def _read_named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in _NAMED_TOKENS:
        match config.get(name):
            case str(content) | {"content": str(content)}:
                tokens[name] = content
    return tokens
