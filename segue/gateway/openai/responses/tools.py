"""The tools of a request. The model sees functions; a namespace is part of its functions' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.sdk.chat_json import to_json

Json: TypeAlias = Mapping[str, Any]

_BETWEEN = "__"


class Namespaced(NamedTuple):
    """The two names of a function in a namespace."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Tools:
    texts: tuple[str, ...] = ()
    """Each as JSON in the form that templates render."""
    namespaced: Mapping[str, Namespaced] = field(default_factory=dict)
    """By the name that the model sees. Codex finds a function only by both of its names."""

    def names(self, seen: str) -> dict[str, str]:
        """The members of a call that name its function, for a name that the model wrote."""
        found = self.namespaced.get(seen)
        return {"name": seen} if found is None else found._asdict()


def seen_name(name: str, namespace: str) -> str:
    """The name that the model sees. Codex's namespaces look like `mcp__github`."""
    if not namespace:
        return name
    return f"{namespace.removesuffix(_BETWEEN)}{_BETWEEN}{name}"


def read_tools(tools: Sequence[Json]) -> Tools:
    """Skips tools that are no functions, such as web_search: only OpenAI can run them, and Codex
    sends some to every server. Raises InvalidRequest.
    """
    texts: list[str] = []
    plain: set[str] = set()
    namespaced: dict[str, Namespaced] = {}
    for where, tool, namespace in _functions(tools):
        name = _text(tool, "name", where)
        seen = seen_name(name, namespace)
        texts.append(_for_templates(tool, seen, where))
        if namespace:
            namespaced.setdefault(seen, Namespaced(namespace, name))
        else:
            plain.add(seen)
    return Tools(
        tuple(texts), {seen: names for seen, names in namespaced.items() if seen not in plain}
    )


def _functions(tools: Sequence[Json]) -> Iterator[tuple[str, Json, str]]:
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        match tool.get("type"):
            case "function":
                yield where, tool, ""
            case "namespace":
                namespace = _text(tool, "name", where)
                inner = tool.get("tools") or []
                if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
                    raise InvalidRequest.at(
                        f"{where}.tools", f"expected a list of tools, got {what_came(inner)}"
                    )
                for number, one in enumerate(inner):
                    if one.get("type") == "function":
                        yield f"{where}.tools[{number}]", one, namespace


def _for_templates(tool: Json, seen: str, where: str) -> str:
    function: dict[str, Any] = {"name": seen}
    if tool.get("description") is not None:
        function["description"] = _text(tool, "description", where)
    if (parameters := tool.get("parameters")) is not None:
        if not isinstance(parameters, dict):
            raise InvalidRequest.at(
                f"{where}.parameters", f"expected a JSON schema object, got {what_came(parameters)}"
            )
        function["parameters"] = parameters
    return to_json({"type": "function", "function": function})


def _text(tool: Json, name: str, where: str) -> str:
    value = tool.get(name)
    if not isinstance(value, str) or not (value or name == "description"):
        raise InvalidRequest.at(f"{where}.{name}", f"expected a text, got {what_came(value)}")
    return value
