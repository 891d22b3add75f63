"""Turns a caller's tools, dictionaries or JSON text, into the text that a request carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from segue.api.checks import kind_of, what_came
from segue.api.errors import InvalidRequest

_EXPECTED = '{"type": "function", "function": {"name": …, "parameters": …}}'


def tools_as_text(tools: Sequence[str | Mapping[str, object]]) -> tuple[str, ...]:
    """One JSON text per tool. Raises InvalidRequest that names the tool and its error.

    The router checks a tool's schema. Here a tool only has to be JSON and to name its function, so
    that the error is raised in the caller's code.
    """
    if isinstance(tools, str | Mapping):
        raise InvalidRequest(
            f"tools must be a list of tools such as [{_EXPECTED}], got {kind_of(tools)}: "
            "put a single tool in a list"
        )
    if not isinstance(tools, Iterable):
        raise InvalidRequest(
            f"tools must be a list of tools such as [{_EXPECTED}], got {what_came(tools)}"
        )
    return tuple(_as_text(f"tools[{index}]", tool) for index, tool in enumerate(tools))


def _as_text(where: str, tool: str | Mapping[str, object]) -> str:
    text = tool if isinstance(tool, str) else _dumped(where, tool)
    try:
        read = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{where} must be {_expected(f'text that is not JSON: {error}')}"
        ) from None
    if not isinstance(read, dict):
        raise InvalidRequest(f"{where} must be {_expected(f'JSON of {kind_of(read)}')}")
    function = read.get("function", read)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where} must be {_expected(f'no name of a function in {text:.80}')}")
    return text


def _dumped(where: str, tool: Mapping[str, object]) -> str:
    if not isinstance(tool, Mapping):
        raise InvalidRequest(f"{where} must be {_expected(what_came(tool))}")
    try:
        return json.dumps(dict(tool), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{where} must be {_expected(f'a value that JSON does not have: {error}')}"
        ) from None


def _expected(got: str) -> str:
    return f"a dictionary or JSON text such as {_EXPECTED}, got {got}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
