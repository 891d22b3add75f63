"""Emits calls and the text around them, as the text arrives.

No text of a model is lost: everything that is not a call is content. This includes a call that was
cut off, whose last value may be incomplete, and one that gives a parameter two values. If parts of
such a call were already sent, it is abandoned, and its text is content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segue.answers.parts import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
)
from segue.answers.tool_calls.hermes import OpenCall
from segue.answers.tool_calls.markup import Tag, TagReader
from segue.answers.tool_calls.reading import Readings
from segue.answers.tool_calls.steps import ReadingStep
from segue.answers.tool_calls.values import ToolValues
from segue.answers.tool_calls.writers import CallWriter, Content, JsonCallWriter


def end_of_reasoning(text: str, tools: Sequence[str]) -> int:
    """The position of the answer in a text that may start in the reasoning: after </think>, unless
    that is more likely part of a call. 0 if the text does not start in the reasoning.
    """
    if "</think>" not in text:
        return 0
    if not tools:
        return text.index("</think>") + len("</think>")
    tags = TagReader()
    readings = Readings(ToolValues(tools), may_start_in_reasoning=True)
    for tag in tags.push(text, is_end=True):
        readings.step(tag)
    step = readings.end(tags.end_of_words)
    while step.before:
        step = step.before
    return step.tag.end if step.tag else 0


class CallReader:
    """Without tools, everything is content. `formats` are those that count as calls."""

    def __init__(
        self, tools: Sequence[str], formats: Sequence[str] = ("qwen3_coder", "hermes")
    ) -> None:
        self._has_calls = bool(tools and formats)
        self._tags = TagReader(has_markup="qwen3_coder" in formats, has_hermes="hermes" in formats)
        self._text = self._tags.text
        self._tools = ToolValues(tools)
        self._readings = Readings(self._tools)
        self._done = self._readings.start
        """The last step that is certain."""
        self._content = Content()
        self._position = 0
        """The end of the content that was already emitted."""
        self._opened: Tag | None = None
        self._call: CallWriter | JsonCallWriter | None = None
        self._num_calls = 0

    def add(self, text: str) -> list[AnswerPart]:
        """Adds text in which nothing is a call."""
        shown = self._content.add(text)
        return [ContentText(shown)] if shown else []

    def push(self, text: str) -> list[AnswerPart]:
        """Returns what is certain now."""
        return list(self._push(text, is_end=False)) if self._has_calls else self.add(text)

    def finish(self, *, is_whole: bool = True) -> list[AnswerPart]:
        """Returns the rest at the end of the text. An answer that was cut off is not whole."""
        return [*self._push("", is_end=True), *self._finish(is_whole=is_whole)]

    def _push(self, text: str, *, is_end: bool) -> Iterator[AnswerPart]:
        for tag in self._tags.push(text, is_end=is_end):
            if self._readings.certain:
                yield from self._read_to(tag.start)
            if tag.open_call:
                yield from self._write_json(tag.start, tag.open_call)
            self._readings.step(tag)
            if tag.kind == "<tool_call>" and isinstance(self._call, JsonCallWriter):
                # The tag is text, and the text after it is read again.
                self._readings.words()
                yield from self._abandon(self._call, tag.end)
            yield from self._follow_certain()
        if self._tags.open_call:
            yield from self._write_json(self._tags.frontier, self._tags.open_call)
        if self._tags.end_of_words > self._tags.last_end:
            self._readings.words()
            yield from self._follow_certain()
        if self._readings.certain and not is_end:
            yield from self._read_to(self._tags.frontier)

    def _finish(self, *, is_whole: bool) -> Iterator[AnswerPart]:
        if is_whole and not self._tags.breaks_off():
            last = self._readings.end(self._tags.end_of_words)
        else:
            last = self._readings.cut_off(self._done)
        if self._call and last is self._done:
            yield from self._abandon(self._call, self._text.size)
        yield from self._follow(last, is_over=True)
        yield from self._read_to(self._text.size)
        yield from _as_content(self._content.end())

    def _follow_certain(self) -> Iterator[AnswerPart]:
        if step := self._readings.certain:
            yield from self._follow(step, is_over=self._readings.is_outside)

    def _follow(self, last: ReadingStep, *, is_over: bool) -> Iterator[AnswerPart]:
        """The steps up to `last` are certain. `is_over`: no call continues after it."""
        for step in last.since(self._done):
            tag = step.tag
            if step.does in ("open", "function", "call"):
                if tag and self._completes_json(tag):
                    continue
                yield from self._end_call()
            if tag:
                yield from self._take(step, tag)
        self._done = last
        if is_over:
            yield from self._end_call()

    def _take(self, step: ReadingStep, tag: Tag) -> Iterator[AnswerPart]:
        match step.does:
            case "open":
                self._opened = tag
            case "function" | "call":
                yield from self._start_call(tag)
            case "parameter" if isinstance(self._call, CallWriter):
                self._call.start_value(tag.name, tag.end)
            case "value" if isinstance(self._call, CallWriter):
                yield from self._call.end_value(step.at)
                self._call.end = tag.end
            case "end" if self._call:
                self._call.end = step.at

    def _completes_json(self, tag: Tag) -> bool:
        """Whether this tag completes the call that is already being written."""
        call = self._call
        if not isinstance(call, JsonCallWriter) or call.start != tag.start:
            return False
        call.end, call.awaits_end = tag.end, False
        return True

    def _read_to(self, end: int) -> Iterator[AnswerPart]:
        """The text up to `end` is certain: it belongs to the content, or to a value."""
        if self._call:
            yield from self._call.read_to(end)
        elif end > self._position:
            shown = self._content.add(self._text.cut(self._position, end))
            self._position = end
            yield from _as_content(shown)

    def _start_call(self, tag: Tag) -> Iterator[AnswerPart]:
        start, self._opened = (self._opened or tag).start, None
        yield from self._content_to(start)
        self._call = CallWriter(self._num_calls, tag, start, self._text, self._tools)
        self._num_calls += 1
        yield CallStart(self._call.index, tag.name)

    def _write_json(self, start: int, call: OpenCall) -> Iterator[AnswerPart]:
        """The part of a Hermes call that has arrived, unless it may be part of something else."""
        if (step := self._readings.only_outside) is None:
            return
        if not isinstance(self._call, JsonCallWriter):
            yield from self._follow(step, is_over=True)
            yield from self._content_to(start)
            self._call = JsonCallWriter(self._num_calls, start, call)
            self._num_calls += 1
            yield CallStart(self._call.index, call.name)
        yield from self._call.read_to(start)

    def _content_to(self, start: int) -> Iterator[AnswerPart]:
        """The content before a call."""
        yield from self._read_to(start)
        yield from _as_content(self._content.start_call())

    def _end_call(self) -> Iterator[AnswerPart]:
        call = self._call
        if call is None or call.awaits_end:
            return
        if call.contradicts:
            yield from self._abandon(call, call.end)
            return
        self._call, self._position = None, call.end
        if rest := call.rest():
            yield CallArguments(call.index, rest)
        yield CallEnd(call.index)

    def _abandon(self, call: CallWriter | JsonCallWriter, end: int) -> Iterator[AnswerPart]:
        self._call, self._position = None, end
        text = self._content.abandon_call(self._text.cut(call.start, end))
        yield CallAbandoned(call.index, text)


def _as_content(text: str) -> Iterator[AnswerPart]:
    if text:
        yield ContentText(text)
