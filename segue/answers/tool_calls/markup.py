"""An answer's text as tags, in one pass, as the text arrives: the markup of Qwen3.5's templates,
and Hermes calls.

    <tool_call>                      <tool_call>
    <function=get_weather>           {"name": "get_weather", "arguments": {"city": "Paris"}}
    <parameter=city>                 </tool_call>
    Paris
    </parameter>
    </function>
    </tool_call>

A tag states its kind and its position in the line. `reading.py` decides whether it means anything:
a model may also write about tags.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from segue.answers.growing_text import GrowingText
from segue.answers.tool_calls.hermes import HermesCalls, OpenCall
from segue.answers.tool_calls.literals import Json

Kind: TypeAlias = Literal[
    "<tool_call>",
    "</tool_call>",
    "<function>",
    "</function>",
    "<parameter>",
    "</parameter>",
    "<think>",
    "</think>",
    "hermes",
]

_FIXED = ("<tool_call>", "</tool_call>", "<think>", "</think>")
_NAMED = ("<function=", "</function>", "<parameter=", "</parameter>")
# A character of a name. It may be a "<" unless it starts one of our tags.
_IN_NAME = r"(?:[^<>\n]|<(?!/?(?:tool_call|function|parameter|think)\b))"
_TAG = re.compile(
    r"</?(?:tool_call|think)>|</(?:function|parameter)>"
    rf"|<(function|parameter)=({_IN_NAME}{{1,256}})>"
)
_HERMES_TAG = re.compile(r"</?(?:tool_call|think)>|(?!)()()")
_STARTED = sorted({tag[:size] for tag in (*_FIXED, *_NAMED) for size in range(1, len(tag) + 1)})
# The text so far may be the beginning of a tag. A tag's ">" completes it, so none contains one.
_UNFINISHED = re.compile(
    rf"(?:{'|'.join(re.escape(one) for one in _STARTED if not one.endswith('>'))}"
    rf"|<(?:function|parameter)={_IN_NAME}{{1,256}}(?:</?(?:tool_call|function|parameter|think))?)\Z"
)
_BREAK = re.compile(r"</?[a-z_]*(?:=[^<>\n]*)?\Z")
_MAX_TAG = 300
_NUM_INDENT = 64


@dataclass(frozen=True, slots=True)
class Tag:
    """`text[start:end]`. `is_next` means that only whitespace separates it from the tag before."""

    kind: Kind
    start: int
    end: int
    is_next: bool
    starts_line: bool
    ends_line: bool
    """Only of the opening tags of functions and parameters."""
    name: str = ""
    arguments: dict[str, Json] | None = None
    """The arguments of a Hermes call, which is one tag from <tool_call> to </tool_call>. If there
    are several calls in between, the first includes the opening tag and the last the closing one.
    """
    open_call: OpenCall | None = None
    """The call as it was written while incomplete: of the first of these calls, or of a <tool_call>
    that turned out to open none."""


class TagReader:
    """Finds the tags in a text that arrives in pieces, and yields each one once it is certain."""

    def __init__(self, *, has_markup: bool = True, has_hermes: bool = True) -> None:
        self.text = GrowingText()
        self.frontier = 0
        """Before this position no tag is pending."""
        self.last_end = 0
        """The end of the last tag."""
        self.end_of_words = 0
        """The end of the last character before `frontier` that is not whitespace."""
        self._tag = _TAG if has_markup else _HERMES_TAG
        self._has_hermes = has_hermes
        self._hermes: HermesCalls | None = None

    def push(self, text: str, *, is_end: bool = False) -> Iterator[Tag]:
        """Adds `text`. `is_end`: it is the last piece."""
        position = self._hermes.position if self._hermes else self.frontier
        self.text.add(text, keep_from=position)
        while self._hermes is not None or (yield from self._next_tag(is_end=is_end)):
            if self._hermes is not None:
                self._hermes.read(is_end=is_end)
                if not self._hermes.is_done:
                    return
                yield from self._hermes_tags(self._hermes)
                self._hermes = None

    @property
    def open_call(self) -> OpenCall | None:
        """The Hermes call that starts at `frontier`, if its arguments have started."""
        return self._hermes.open_call if self._hermes else None

    def breaks_off(self) -> bool:
        """Whether the text so far ends in the middle of a tag."""
        end = self.text.cut(max(0, self.text.size - _MAX_TAG), self.text.size)
        last = end.rfind("<")
        return last >= 0 and _BREAK.match(end, last) is not None

    def _next_tag(self, *, is_end: bool) -> Generator[Tag, None, bool]:
        """Moves the frontier over the next tag, or starts a Hermes call there. False if there is
        none so far.
        """
        text, index = self.text.at(self.frontier)
        found = self._tag.search(text, index)
        if found is None:
            unfinished = None
            if not is_end:
                unfinished = _UNFINISHED.search(text, max(index, len(text) - _MAX_TAG))
            self._advance(text, index, unfinished.start() if unfinished else len(text))
            return False
        self._advance(text, index, found.start())
        after = text[found.end() : found.end() + 2]
        if found[1] and after in ("", "\r") and not is_end:
            return False
        end = self.frontier + len(found[0])
        if found[0] == "<tool_call>" and self._has_hermes:
            self._hermes = HermesCalls(self.text, end)
            return True
        kind: Kind = f"<{found[1]}>" if found[1] else found[0]  # type: ignore[assignment]  # the pattern has no others
        ends_line = bool(found[1]) and after.startswith(("\n", "\r\n"))
        yield self._tag_to(end, kind, (found[2] or "").strip(), ends_line=ends_line)
        return True

    def _advance(self, text: str, index: int, end: int) -> None:
        """Moves the frontier to `end`: no tag is before it."""
        if words := text[index:end].rstrip():
            self.end_of_words = self.frontier + len(words)
        self.frontier += end - index

    def _hermes_tags(self, hermes: HermesCalls) -> Iterator[Tag]:
        open_call = hermes.open_call
        for call in hermes.calls:
            yield self._tag_to(call.end, "hermes", call.name, call.arguments, open_call=open_call)
            open_call = None
        if not hermes.calls:
            end = self.frontier + len("<tool_call>")
            yield self._tag_to(end, "<tool_call>", open_call=open_call)

    def _tag_to(
        self,
        end: int,
        kind: Kind,
        name: str = "",
        arguments: dict[str, Json] | None = None,
        *,
        ends_line: bool = False,
        open_call: OpenCall | None = None,
    ) -> Tag:
        """The tag from the frontier to `end`, which becomes the frontier."""
        start = self.frontier
        indent = self.text.cut(max(0, start - _NUM_INDENT), start).rpartition("\n")
        tag = Tag(
            kind=kind,
            start=start,
            end=end,
            is_next=self.end_of_words <= self.last_end,
            starts_line=not indent[2].strip() and (bool(indent[1]) or start <= _NUM_INDENT),
            ends_line=ends_line,
            name=name,
            arguments=arguments,
            open_call=open_call,
        )
        self.last_end = self.frontier = self.end_of_words = end
        return tag
