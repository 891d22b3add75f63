"""The tags that a reading counts as markup, step by step, and their cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from segue.answers.tool_calls.markup import Tag

_NUM_REMEMBERED = 64

Does: TypeAlias = Literal["answer", "call", "open", "function", "parameter", "value", "end"]


class Cost:
    """The costs of a reading."""

    # A tag that is text, inside a line or with its counterpart …
    TEXT = 1
    # … and at the start of a line, without its counterpart. Outside every call, an end tag of a
    # value there shows that a value was ended too early: any other reading is more likely.
    STRAY = 3
    STRAY_OUTSIDE = 1_000_000
    HERMES_AS_TEXT = 4
    # Reasoning that started before the answer's text. More than a </think> in a value.
    REASONING = 4
    # Missing tags.
    NO_TOOL_CALL = 2
    NO_PARAMETER_END = 3
    # More than two stray tags; otherwise a quoted parameter would swallow the end of its own.
    NO_LAST_PARAMETER_END = 8
    NO_FUNCTION_END = 2
    NO_TOOL_CALL_END = 2
    # A call that has only started when the text ends: less than its two tags as text.
    STARTED = 1
    # A value that lasts to the text's end: more than one without its own end …
    NO_END = 11
    # … and less than a parameter outside every call.
    PARAMETER_OUTSIDE = 14
    # Words between parameters, which belong to none. More than a parameter's end as text together
    # with a missing one, unless the next parameter is an expected one.
    LOOSE = 5
    # A function that no tool has; a parameter that the function lacks or that was already given;
    # and a value that ends inside a line but did not start inside one.
    UNKNOWN = 1
    UNLIKELY = 2
    UNEVEN = 1

    # A reading is dropped if it costs this much more than one that starts a parameter. It costs
    # this much to have the end of a parameter as text in a line of its own.
    CERTAIN = 3


@dataclass(frozen=True, slots=True, eq=False)
class ReadingStep:
    """A tag that counts as markup in a reading, and the step before it."""

    does: Does
    tag: Tag | None = None
    before: ReadingStep | None = None
    at: int = 0
    """The end of what this step ends."""
    function: str = ""
    answers: bool = False
    """The reasoning is over: a further </think> means nothing."""

    def then(self, does: Does, tag: Tag, at: int = 0) -> ReadingStep:
        function = tag.name if does == "function" else self.function
        return ReadingStep(does, tag, self, at, function, self.answers)

    def has_given(self, parameter: str) -> bool:
        """Whether the call already has it; only the last parameters are searched."""
        step: ReadingStep | None = self
        for _ in range(_NUM_REMEMBERED):
            if step is None or step.does == "function":
                return False
            if step.does == "parameter" and step.tag and step.tag.name == parameter:
                return True
            step = step.before
        return False

    def since(self, before: ReadingStep) -> list[ReadingStep]:
        """The steps after `before` up to this one, in order."""
        steps: list[ReadingStep] = []
        step: ReadingStep | None = self
        while step is not None and step is not before:
            steps.append(step)
            step = step.before
        return steps[::-1]

    def without_last_call(self, until: ReadingStep) -> ReadingStep:
        """The step before the last call was opened, or `until` if that comes later."""
        step = self
        while step is not until and step.before and step.does not in ("function", "open"):
            step = step.before
        if step is until or step.before is None:
            return step
        if step.does == "function" and step.before.does == "open":
            step = step.before
        return step.before or step
