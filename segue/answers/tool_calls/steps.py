"""What a reading took for markup, step by step, and the calls that result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from segue.answers.tool_calls.literals import Json
from segue.answers.tool_calls.markup import Tag

_NUM_REMEMBERED = 64


@dataclass(slots=True)
class Parameter:
    """`text[start:end]` is everything between its tags."""

    name: str
    start: int
    end: int


@dataclass(slots=True)
class ParsedCall:
    """`text[start:end]`, tags included."""

    name: str
    start: int
    end: int
    parameters: list[Parameter] = field(default_factory=list)
    arguments: dict[str, Json] | None = None
    """Set for a Hermes call, which has no `parameters`."""


@dataclass(frozen=True, slots=True)
class Step:
    """A tag that counts as markup in a reading, and the step before it."""

    does: Literal["answer", "call", "open", "function", "parameter", "value", "end"]
    tag: Tag | None = None
    before: Step | None = None
    at: int = 0
    """The end of what this step ends."""
    function: str = ""
    answers: bool = False
    """The reasoning is over: a further </think> means nothing."""

    def then(
        self,
        does: Literal["call", "open", "function", "parameter", "value", "end"],
        tag: Tag,
        at: int = 0,
    ) -> Step:
        function = tag.name if does == "function" else self.function
        return Step(does, tag, self, at, function, self.answers)

    def has_given(self, parameter: str) -> bool:
        """Whether the call already has it; only the last parameters are searched."""
        step: Step | None = self
        for _ in range(_NUM_REMEMBERED):
            if step is None or step.does == "function":
                return False
            if step.does == "parameter" and step.tag and step.tag.name == parameter:
                return True
            step = step.before
        return False


def calls_of(last: Step) -> list[ParsedCall]:
    """The calls that result from the steps up to `last`, in order."""
    calls: list[ParsedCall] = []
    opened: Tag | None = None
    for step in _in_order(last):
        tag = step.tag
        if tag is None:
            continue
        match step.does:
            case "open":
                opened = tag
            case "call":
                calls.append(ParsedCall(tag.name, tag.start, tag.end, [], tag.arguments))
            case "function":
                calls.append(ParsedCall(tag.name, (opened or tag).start, tag.end))
                opened = None
            case "parameter":
                calls[-1].parameters.append(Parameter(tag.name, tag.end, tag.end))
            case "value":
                calls[-1].parameters[-1].end = step.at
                calls[-1].end = tag.end
            case "end":
                calls[-1].end = step.at
    return calls


def _in_order(last: Step) -> Iterator[Step]:
    steps: list[Step] = []
    step: Step | None = last
    while step is not None:
        steps.append(step)
        step = step.before
    return reversed(steps)
