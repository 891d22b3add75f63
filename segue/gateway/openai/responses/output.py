"""The output items of a response, and the events from which clients build them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from segue.answers import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
)
from segue.gateway.http.errors import Json
from segue.gateway.http.stream import TextEvents
from segue.gateway.openai.objects import new_call_id
from segue.gateway.openai.responses.items import encrypted
from segue.gateway.openai.responses.tools import ResponseTools

_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}
"""The type of an item's only content part, by the item's type."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """An event that adds to a text."""

    name: str
    around: TextEvents
    """Everything after the sequence number."""
    text: str

    def event(self, sequence_number: int) -> bytes:
        start = f'event: {self.name}\ndata: {{"sequence_number":{sequence_number},'
        return start.encode() + self.around.of(self.text)


class Output:
    """At most one item is open. Events lack `sequence_number`, and each is valid only until the
    next one is generated.
    """

    def __init__(self, tools: ResponseTools, *, is_encrypted: bool) -> None:
        """`is_encrypted`: reasoning has `encrypted_content`."""
        self._tools = tools
        self._is_encrypted = is_encrypted
        self._items: list[Json] = []
        self._is_open = False
        self._texts: list[str] = []
        self._around: TextEvents | None = None
        """Encodes the deltas of the open item."""
        self._logprobs: list[Json] = []
        self._new_logprobs: list[Json] = []

    @property
    def items(self) -> list[Json]:
        return self._items

    def add_logprobs(self, logprobs: Iterable[Json]) -> None:
        """Adds those of further tokens to the next text."""
        self._new_logprobs += logprobs

    def add(self, part: AnswerPart) -> Iterator[Json | TextDelta]:
        match part:
            case ReasoningText(text):
                yield from self._ensure("reasoning")
                yield self._delta("reasoning_text", text, {})
            case ContentText(text):
                yield from self._ensure("message")
                yield self._delta("output_text", text, {"logprobs": self._take_logprobs()})
            case CallStart(name=name):
                yield from self.close()
                members = {"call_id": new_call_id(), **self._tools.names(name), "arguments": ""}
                yield self._open(_new_item("fc", "function_call", members))
            case CallArguments(text=text):
                yield self._delta("function_call_arguments", text, {})
            case CallEnd():
                yield from self.close()
            case CallAbandoned():
                # The client has received its fragments.
                yield from self.close("incomplete")

    def close(self, status: str = "completed") -> Iterator[Json]:
        """Closes the open item, if there is one."""
        if not self._is_open:
            return
        item, text = self._items[-1], "".join(self._texts)
        kind = item["type"]
        if kind == "function_call":
            item["arguments"] = text
            yield self._event("function_call_arguments.done", {"arguments": text})
        else:
            logprobs = {}
            if kind == "message":
                self._take_logprobs()
                logprobs = {"logprobs": self._logprobs}
            part = _part(kind) | {"text": text} | logprobs
            item["content"] = [part]
            if kind == "reasoning" and self._is_encrypted:
                item["encrypted_content"] = encrypted(text)
            yield self._event(f"{_PARTS[kind]}.done", {"text": text} | logprobs)
            yield self._event("content_part.done", {"part": part})
        item["status"] = status
        self._is_open = False
        yield self._item_event("output_item.done", item)

    def _ensure(self, kind: str) -> Iterator[Json]:
        if self._is_open and self._items[-1]["type"] == kind:
            return
        yield from self.close()
        yield self._open(_new_text_item(kind))
        yield self._event("content_part.added", {"part": _part(kind)})

    def _open(self, item: Json) -> Json:
        self._items.append(item)
        self._is_open = True
        self._texts, self._logprobs, self._around = [], [], None
        return self._item_event("output_item.added", item)

    def _take_logprobs(self) -> list[Json]:
        new, self._new_logprobs = self._new_logprobs, []
        self._logprobs += new
        return new

    def _delta(self, what: str, text: str, others: Mapping[str, list[Json]]) -> Json | TextDelta:
        self._texts.append(text)
        name = f"{what}.delta"
        if any(others.values()):
            return self._event(name, {"delta": text, **others})
        if self._around is None:

            def with_text(some: str) -> bytes:
                return to_json(self._event(name, {"delta": some, **others}))[1:] + b"\n\n"

            self._around = TextEvents(with_text)
        return TextDelta(f"response.{name}", self._around, text)

    def _item_event(self, name: str, item: Json) -> Json:
        return {
            "type": f"response.{name}",
            "output_index": len(self._items) - 1,
            "item": item,
        }

    def _event(self, name: str, fields: Mapping[str, Any]) -> Json:
        item = self._items[-1]
        index = {} if item["type"] == "function_call" else {"content_index": 0}
        return {
            "type": f"response.{name}",
            "item_id": item["id"],
            "output_index": len(self._items) - 1,
            **index,
            **fields,
        }


def _part(kind: str) -> Json:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": ""}
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _new_item(prefix: str, kind: str, members: Json) -> Json:
    item_id = f"{prefix}_{secrets.token_hex(12)}"
    return {"id": item_id, "type": kind, "status": "in_progress", **members}


def _new_text_item(kind: str) -> Json:
    if kind == "reasoning":
        return _new_item("rs", kind, {"summary": [], "content": []})
    return _new_item("msg", kind, {"role": "assistant", "content": []})
