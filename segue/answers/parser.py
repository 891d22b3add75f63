"""Parses an answer: text in, parts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from segue.answers.formats import TOOL_CALL_FORMATS, ParserNames
from segue.answers.parts import AnswerPart, CallAbandoned, CallEnd, ContentText, ReasoningText
from segue.answers.reasoning import Reasoning, ReasoningSpacing
from segue.answers.tool_calls.calls import CallReader, end_of_reasoning
from segue.api.messages import THINK_END, THINK_START


class AnswerParser:
    """Parses one answer, regardless of how its text is cut into pieces.

    `tools` are the tools that could be called, as in `ChatInput`; without any, nothing is a call.
    `starts_in_reasoning`: whether the prompt ends in an open <think>; None if that is unknown, and
    then nothing is certain before the answer ends. With the reasoning parser `none`, the reasoning
    stays in the content; calls in it are still only text.
    """

    def __init__(
        self,
        *,
        tools: Sequence[str] = (),
        tool_calls: str = "auto",
        reasoning: str = "qwen3",
        starts_in_reasoning: bool | None = False,
    ) -> None:
        names = ParserNames(tool_calls, reasoning)
        self._formats = TOOL_CALL_FORMATS[names.tool_calls]
        self._tools = tools if self._formats else ()
        self._calls = CallReader(self._tools, self._formats)
        self._separates = names.reasoning != "none"
        self._reasoning = Reasoning(has_calls=bool(self._tools))
        self._spacing = ReasoningSpacing()
        self._waiting: list[str] = []
        self._in: Literal["unknown", "start", "reasoning", "answer"]
        if starts_in_reasoning is None:
            self._in = "unknown"
        elif starts_in_reasoning:
            self._in = "reasoning"
        else:
            self._in = "start" if self._separates else "answer"
        self._skips_line_ends = False

    def push(self, text: str) -> list[AnswerPart]:
        """Returns what is certain now."""
        match self._in:
            case "unknown":
                self._waiting.append(text)
                return []
            case "start":
                return self._start(text)
            case "reasoning":
                return self._read_reasoning(text)
            case _:
                return self._read_answer(text)

    def finish(self, *, is_whole: bool = True) -> list[AnswerPart]:
        """Returns the rest at the end of the text. An answer that was cut off by `max_tokens`, a
        stop string or a cancellation is not whole: its last call counts only if it was closed.
        """
        parts: list[AnswerPart] = []
        if self._in == "unknown":
            parts += self._find_start("".join(self._waiting))
        if self._in == "start":
            parts += self._read_answer("".join(self._waiting))
        if self._in == "reasoning":
            parts += self._end_in_reasoning(is_whole=is_whole)
        return parts + self._calls.finish(is_whole=is_whole)

    def _find_start(self, text: str) -> list[AnswerPart]:
        end = end_of_reasoning(text, self._tools)
        self._waiting = []
        if end:
            parts = self._add_reasoning(text[: end - len(THINK_END)])
            return parts + self._end_reasoning() + self._read_answer(text[end:])
        self._in = "start" if self._separates else "answer"
        return self.push(text)

    def _start(self, text: str) -> list[AnswerPart]:
        """The model may open the reasoning itself."""
        self._waiting.append(text)
        if text.isspace():
            return []
        text = "".join(self._waiting)
        start = text.lstrip()
        if start.startswith(THINK_START):
            self._in = "reasoning"
            return self._read_reasoning(start)
        if THINK_START.startswith(start):
            self._waiting = [text]
            return []
        self._in = "answer"
        return self._read_answer(text)

    def _read_reasoning(self, text: str) -> list[AnswerPart]:
        parts = self._add_reasoning(self._reasoning.push(text))
        if self._reasoning.is_over:
            parts += self._end_reasoning() + self._read_answer(self._reasoning.rest)
        return parts

    def _add_reasoning(self, text: str) -> list[AnswerPart]:
        if not self._separates:
            return self._calls.add(text)
        shown = self._spacing.add(text)
        return [ReasoningText(shown)] if shown else []

    def _end_reasoning(self, tag: str = THINK_END) -> list[AnswerPart]:
        self._in, self._skips_line_ends = "answer", self._separates
        if not self._separates:
            return self._calls.add(tag)
        shown = self._spacing.finish()
        return [ReasoningText(shown)] if shown or self._spacing.is_empty else []

    def _end_in_reasoning(self, *, is_whole: bool) -> list[AnswerPart]:
        parts = self._add_reasoning(self._reasoning.finish())
        held = "".join(self._reasoning.held)
        if is_whole and self._is_only_calls(held):
            return parts + self._end_reasoning("") + self._read_answer(held)
        return parts + self._add_reasoning(held) + self._end_reasoning("")

    def _is_only_calls(self, text: str) -> bool:
        calls = CallReader(self._tools, self._formats)
        parts = calls.push(text) + calls.finish()
        return any(isinstance(part, CallEnd) for part in parts) and not any(
            isinstance(part, ContentText | CallAbandoned) for part in parts
        )

    def _read_answer(self, text: str) -> list[AnswerPart]:
        if self._skips_line_ends:
            text = text.lstrip("\n")
            self._skips_line_ends = not text
        return self._calls.push(text) if text else []
