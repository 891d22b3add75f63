"""The tools of a request. The model sees functions; a namespace is part of its functions' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from segue.api.errors import InvalidRequest
from segue.gateway.http.fields import member, objects
from segue.sdk.chat_json import to_json

Json: TypeAlias = Mapping[str, Any]

_BETWEEN = "__"


@dataclass(frozen=True, slots=True)
class ResponseTools:
    texts: tuple[str, ...] = ()
    """Each as JSON in the form that templates render."""
    namespaced: Mapping[str, dict[str, str]] = field(default_factory=dict)
    """Namespace and name, by the name that the model sees. Codex finds a function only by both."""

    def names(self, seen: str) -> dict[str, str]:
        """The members of a call that name its function; `seen` is the name that the model wrote."""
        return self.namespaced.get(seen, {"name": seen})


def seen_name(name: str, namespace: str) -> str:
    """The name that the model sees. Codex's namespaces look like `mcp__github`."""
    if not namespace:
        return name
    return f"{namespace.removesuffix(_BETWEEN)}{_BETWEEN}{name}"


def read_tools(tools: Sequence[Json]) -> ResponseTools:
    """Skips tools that are not functions, such as web_search: only OpenAI can run them, and Codex
    sends some to every server. Raises InvalidRequest.
    """
    texts: list[str] = []
    plain: set[str] = set()
    namespaced: dict[str, dict[str, str]] = {}
    for where, tool, namespace in _functions(tools):
        name = _name(tool, where)
        seen = seen_name(name, namespace)
        texts.append(_for_templates(tool, seen, where))
        if namespace:
            namespaced.setdefault(seen, {"namespace": namespace, "name": name})
        else:
            plain.add(seen)
    return ResponseTools(
        tuple(texts), {seen: names for seen, names in namespaced.items() if seen not in plain}
    )


def _functions(tools: Sequence[Json]) -> Iterator[tuple[str, Json, str]]:
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        match tool.get("type"):
            case "function":
                yield where, tool, ""
            case "namespace":
                namespace = _name(tool, where)
                inner = objects(tool.get("tools") or [], f"{where}.tools", "a list of tools")
                for number, one in enumerate(inner):
                    if one.get("type") == "function":
                        yield f"{where}.tools[{number}]", one, namespace


def _for_templates(tool: Json, seen: str, where: str) -> str:
    function: dict[str, Any] = {"name": seen}
    for name, kind in (("description", str), ("parameters", dict)):
        if tool.get(name) is not None:
            function[name] = member(tool, name, kind, where)
    return to_json({"type": "function", "function": function})


def _name(tool: Json, where: str) -> str:
    name = member(tool, "name", str, where)
    if not name:
        raise InvalidRequest.at(f"{where}.name", "expected a name, got an empty text")
    return name
