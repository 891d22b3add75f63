"""Which tags in an answer open and close calls and parameters, and which are only text.

A model may forget a tag, write about tags, or pass a whole call as a value, so the same tags can be
read in several ways. Each reading has a cost: for missing tags, and for text that looks like
markup. The cheapest reading wins. It is found in one pass: of all readings that are at the same
place (outside, in a function, in a value …) after a tag, only the cheapest can still win. A step
therefore looks at a handful, and the cost is linear in the text's length.

    place          where a reading is after a tag
    outside        in the answer's text
    reasoning      after <think>
    opened         after <tool_call>, before its function
    function       after <function=…>, before the first parameter
    parameters     after a </parameter>
    closed         after </function>, before </tool_call>
    0, 1, 2 …      in a value, with this number of parameters open inside it: a quoted call

What all remaining readings agree on is certain. A reading that is too expensive is dropped when
the cheapest one starts a parameter, directly after the function's tag or the end of the parameter
before; the calls and values before it are certain then. Until a tag decides, the rest of the text
has to wait. In particular, a call is over when the next call's first parameter starts, or when the
text ends: the last value may quote the end of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from segue.answers.tool_calls.markup import Kind, Tag
from segue.answers.tool_calls.steps import Cost, ReadingStep
from segue.answers.tool_calls.values import ToolValues

Place: TypeAlias = (
    Literal["outside", "reasoning", "opened", "function", "parameters", "closed"] | int
)

_MAX_QUOTED_DEPTH = 3
_BEFORE_PARAMETER = ("<function>", "</parameter>")


class Readings:
    """All readings that may still win: the cheapest for each place.

    If `may_start_in_reasoning`, nothing is certain: a later </think> turns every earlier call into
    reasoning.
    """

    def __init__(self, tools: ToolValues, *, may_start_in_reasoning: bool = False) -> None:
        self.start = ReadingStep("answer", answers=not may_start_in_reasoning)
        self._tools = tools
        self._at: dict[Place, tuple[int, ReadingStep]] = {"outside": (0, self.start)}
        self._last_kind: Kind | None = None
        self._drops = not may_start_in_reasoning
        self._do: dict[Place, Callable[[Tag, int, ReadingStep], None]] = {
            "outside": self._outside,
            "reasoning": self._in_reasoning,
            "opened": self._opened,
            "function": self._in_function,
            "parameters": self._in_function,
            "closed": self._closed,
        }

    @property
    def certain(self) -> ReadingStep | None:
        """The last step of all readings, if it is the same: the text after it is certain too."""
        first, *others = (step for _, step in self._at.values())
        return first if all(step is first for step in others) else None

    @property
    def is_outside(self) -> bool:
        """Whether no reading is in a call."""
        return self._at.keys() <= {"outside", "reasoning"}

    @property
    def only_outside(self) -> ReadingStep | None:
        """The last step, if all readings are outside of calls and reasoning: a Hermes call is one
        in all of them. A <tool_call> before it has no function.
        """
        if self._at.keys() <= {"outside", "opened"} and "outside" in self._at:
            return self._at["outside"][1]
        return None

    def step(self, tag: Tag) -> None:
        before, self._at = self._at, {}
        for place, (cost, step) in before.items():
            if isinstance(place, int):
                self._in_value(place, tag, cost, step)
            else:
                self._do[place](tag, cost, step)
        self._last_kind = tag.kind
        if self._drops and tag.kind == "<parameter>" and tag.is_next:
            self._drop(tag)

    def words(self) -> None:
        """Words follow the last tag: a call that this tag opened would have its function here."""
        self._at.pop("opened", None)

    def end(self, at: int) -> ReadingStep:
        """The last step of the text, which ends at `at`, except for whitespace."""
        left = [self._at["outside"]] if "outside" in self._at else []
        return min((*left, *self._unended(at)), key=lambda one: one[0])[1]

    def cut_off(self, certain: ReadingStep) -> ReadingStep:
        """The last step of a text that was cut off: a call whose end is missing does not count,
        except for what is `certain`.
        """
        place, (_, step) = min(
            ((place, one) for place, one in self._at.items() if place != "reasoning"),
            key=lambda one: (one[1][0], one[0] != "outside"),
        )
        return step if place == "outside" else step.without_last_call(certain)

    def _drop(self, tag: Tag) -> None:
        place, (least, step) = min(self._at.items(), key=lambda one: one[1][0])
        others = (cost for cost, other in self._at.values() if other is not step)
        if step.tag is tag and min(others, default=least) >= least + Cost.CERTAIN:
            self._at = {place: (least, step)}

    def _unended(self, at: int) -> Iterator[tuple[int, ReadingStep]]:
        """Readings in which the text ends in the middle of a call."""
        no_end = Cost.NO_FUNCTION_END + Cost.NO_TOOL_CALL_END
        for place, (cost, step) in self._at.items():
            match place, step.tag:
                case "closed", _:
                    yield cost + Cost.NO_TOOL_CALL_END, step
                case "parameters", _:
                    yield cost + no_end, step
                case "function", Tag(starts_line=True, end=end) as tag if end == at:
                    yield cost + Cost.STARTED, step.then("end", tag, at)
                case 0, Tag() as tag:
                    value = step.then("value", tag, at)
                    yield cost + Cost.NO_END, value.then("end", tag, at)

    def _reach(self, place: Place, cost: int, step: ReadingStep) -> None:
        if place not in self._at or cost < self._at[place][0]:
            self._at[place] = cost, step

    def _outside(self, tag: Tag, cost: int, step: ReadingStep) -> None:
        match tag.kind:
            case "<tool_call>":
                self._reach("opened", cost, step.then("open", tag))
            case "hermes":
                self._reach("outside", cost + self._unknown(tag), step.then("call", tag))
            case "<function>" if self._tools.has_function(tag.name) and (
                tag.starts_line or tag.ends_line
            ):
                cost_here = cost + Cost.NO_TOOL_CALL + (0 if tag.starts_line else Cost.UNEVEN)
                self._reach("function", cost_here, step.then("function", tag))
            case "<think>":
                self._reach("reasoning", cost, step)
            case "</think>" if not step.answers:
                # Everything before it was reasoning, whatever calls it holds.
                self._reach("outside", Cost.REASONING, ReadingStep("answer", tag, answers=True))
                return
        self._reach("outside", cost + _cost_outside(tag), step)

    def _in_reasoning(self, tag: Tag, cost: int, step: ReadingStep) -> None:
        if tag.kind == "</think>":
            self._reach("outside", cost, ReadingStep("answer", None, step, answers=True))
        else:
            self._reach("reasoning", cost, step)

    def _opened(self, tag: Tag, cost: int, step: ReadingStep) -> None:
        if tag.kind == "<function>" and tag.is_next:
            self._reach("function", cost + self._unknown(tag), step.then("function", tag))

    def _in_function(self, tag: Tag, cost: int, step: ReadingStep) -> None:
        if not tag.is_next:
            # A function without parameters is only text if it contains other words.
            if step.does == "function" and tag.kind != "<parameter>":
                return
            cost += Cost.LOOSE
        match tag.kind:
            case "<parameter>":
                if not self._is_one_of_several(tag, step):
                    cost += self._unlikely(tag, step)
                self._reach(0, cost, step.then("parameter", tag))
            case "</function>":
                self._reach("closed", cost, step.then("end", tag, tag.end))
            case "</tool_call>":
                cost += Cost.NO_FUNCTION_END
                self._reach("outside", cost, step.then("end", tag, tag.end))
            case "<tool_call>" | "hermes" if step.does == "value":
                self._outside(tag, cost + Cost.NO_FUNCTION_END + Cost.NO_TOOL_CALL_END, step)

    def _closed(self, tag: Tag, cost: int, step: ReadingStep) -> None:
        if tag.kind == "</tool_call>" and tag.is_next:
            self._reach("outside", cost, step.then("end", tag, tag.end))
        else:
            self._outside(tag, cost + Cost.NO_TOOL_CALL_END, step)

    def _in_value(self, depth: int, tag: Tag, cost: int, step: ReadingStep) -> None:
        assert step.tag is not None
        if depth == 0:
            self._end_value(tag, cost, step)
        # A tag inside a line opens nothing in a value that has its own lines.
        may_open = tag.starts_line or not step.tag.ends_line
        if tag.kind == "<parameter>" and may_open and depth < _MAX_QUOTED_DEPTH:
            self._reach(depth + 1, cost, step)
        if tag.kind == "</parameter>" and depth:
            self._reach(depth - 1, cost, step)
        self._reach(depth, cost + self._cost_in_value(tag), step)

    def _end_value(self, tag: Tag, cost: int, step: ReadingStep) -> None:
        """The value may end here, with its own tag or without."""
        assert step.tag is not None
        if step.tag.ends_line and not tag.starts_line:
            cost += Cost.UNEVEN
        value = step.then("value", tag, tag.start)
        match tag.kind:
            case "</parameter>":
                self._reach("parameters", cost, step.then("value", tag, tag.start))
            # A tag that directly follows a tag that is text is text too.
            case "<parameter>" if not (tag.is_next and self._last_kind in _BEFORE_PARAMETER):
                cost += Cost.NO_PARAMETER_END + self._unlikely(tag, step)
                self._reach(0, cost, value.then("parameter", tag))
            case "</function>":
                cost += Cost.NO_LAST_PARAMETER_END
                self._reach("closed", cost, value.then("end", tag, tag.end))
            case "</tool_call>":
                cost += Cost.NO_LAST_PARAMETER_END + Cost.NO_FUNCTION_END
                self._reach("outside", cost, value.then("end", tag, tag.end))

    def _cost_in_value(self, tag: Tag) -> int:
        if tag.kind not in ("<parameter>", "</parameter>", "</think>"):
            return 0
        if not tag.starts_line:
            return Cost.TEXT
        # A parameter right after another's end is hardly a stray tag.
        is_in_list = tag.is_next and (self._last_kind, tag.kind) == ("</parameter>", "<parameter>")
        return 2 * Cost.STRAY if is_in_list else Cost.STRAY

    def _unknown(self, tag: Tag) -> int:
        return 0 if self._tools.has_function(tag.name) else Cost.UNKNOWN

    def _unlikely(self, parameter: Tag, step: ReadingStep) -> int:
        is_known = self._tools.has_parameter(step.function, parameter.name)
        return 0 if is_known and not step.has_given(parameter.name) else Cost.UNLIKELY

    def _is_one_of_several(self, parameter: Tag, step: ReadingStep) -> bool:
        """Whether the function lacks it and the one before: invented names come in lists."""
        names = [parameter.name]
        if step.does == "value" and step.before and step.before.tag:
            names.append(step.before.tag.name)
        known = [self._tools.has_parameter(step.function, name) for name in names]
        return known == [False, False] and not step.has_given(parameter.name)


def _cost_outside(tag: Tag) -> int:
    match tag.kind:
        case "hermes":
            return Cost.HERMES_AS_TEXT
        case "</parameter>" if tag.starts_line:
            return Cost.STRAY_OUTSIDE
        case "<parameter>" if tag.starts_line:
            return Cost.PARAMETER_OUTSIDE
        case _:
            return Cost.TEXT
