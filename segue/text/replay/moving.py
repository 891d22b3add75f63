"""Values that may differ in the session's next turn, and the conclusions that a template drew from
them.

Most values stay the same when messages are added: the messages themselves, their positions, the
tools. Two kinds do not: the number of messages, and values that the template stored in a namespace
(such as the position of the last question). A `VaryingInt` is a number that
depends on one of these. It acts as its current value and reports each conclusion drawn from it: "at
least 7" for a comparison with 6, "exactly 9" if it is printed.

Text that was rendered under such conclusions is still right as long as they hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias


class NotLocal(Exception):
    """The template did something whose result in the next turn is unknown."""


Key: TypeAlias = tuple[int, str]
"""(the number of a namespace in order of creation, one of its attributes)."""

LENGTH: Key = (-1, "length")
"""The number of messages."""

Scalar: TypeAlias = "str | int | float | bool | None"


class Bound(NamedTuple):
    """A conclusion about an integer: it lies between these bounds, inclusive."""

    low: int | None = None
    high: int | None = None

    def holds(self, value: object) -> bool:
        return (
            type(value) is int
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
        )

    def narrowed(self, other: Bound) -> Bound:
        lows = [bound.low for bound in (self, other) if bound.low is not None]
        highs = [bound.high for bound in (self, other) if bound.high is not None]
        return Bound(max(lows, default=None), min(highs, default=None))


class Exactly(NamedTuple):
    """A conclusion from a value that was used as it is."""

    value: Scalar

    def holds(self, value: object) -> bool:
        # 1, 1.0 and True are equal but print differently.
        return type(value) is type(self.value) and value == self.value


Conclusion: TypeAlias = Bound | Exactly
Conclusions: TypeAlias = Mapping[Key, Conclusion]
Report: TypeAlias = Callable[[Key, Conclusion], None]


def both(one: Conclusion, other: Conclusion) -> Conclusion:
    """The conclusion that is equivalent to both, which held at the same time."""
    if isinstance(one, Exactly):
        return one
    return other if isinstance(other, Exactly) else one.narrowed(other)


class VaryingInt:
    """An integer, `sign * base + offset`, whose `base` may change in the next turn.

    It is not an `int`, so that every use is noticed: other operations either ask for the number
    (`__index__`, `__str__`, `__hash__`) or fail, and then the template is rendered in full.
    """

    __slots__ = ("_base", "_key", "_offset", "_report", "_sign")

    def __init__(
        self, report: Report, key: Key, base: int, *, sign: int = 1, offset: int = 0
    ) -> None:
        self._report = report
        self._key = key
        self._base = base
        self._sign = sign
        self._offset = offset

    @property
    def _value(self) -> int:
        return self._sign * self._base + self._offset

    def peek(self) -> int:
        """The number, without reporting a conclusion."""
        return self._value

    def depends_on(self, key: Key) -> bool:
        return self._key == key

    def exactly(self) -> int:
        self._report(self._key, Exactly(self._base))
        return self._value

    def _moved(self, sign: int, offset: int) -> VaryingInt:
        return VaryingInt(
            self._report,
            self._key,
            self._base,
            sign=sign * self._sign,
            offset=sign * self._offset + offset,
        )

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return self._moved(1, other)
        return self.exactly() + exact(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        if type(other) is int:
            return self._moved(1, -other)
        if isinstance(other, VaryingInt) and (other._key, other._sign) == (self._key, self._sign):
            return self._offset - other._offset
        return self.exactly() - exact(other)

    def __rsub__(self, other: Any) -> Any:
        if type(other) is int:
            return self._moved(-1, other)
        return exact(other) - self.exactly()

    def _is_above(self, limit: int) -> bool:
        """Whether the number is greater than `limit`. Reports the answer as a conclusion."""
        is_above = self._value > limit
        edge = self._sign * (limit - self._offset)
        if self._sign > 0:
            self._report(self._key, Bound(low=edge + 1) if is_above else Bound(high=edge))
        else:
            self._report(self._key, Bound(high=edge - 1) if is_above else Bound(low=edge))
        return is_above

    def __gt__(self, other: Any) -> Any:
        if type(other) is int:
            return self._is_above(other)
        return self.exactly() > exact(other)

    def __ge__(self, other: Any) -> Any:
        if type(other) is int:
            return self._is_above(other - 1)
        return self.exactly() >= exact(other)

    def __lt__(self, other: Any) -> Any:
        return not self >= other

    def __le__(self, other: Any) -> Any:
        return not self > other

    def __eq__(self, other: object) -> Any:
        if type(other) is int and other != self._value:
            # That it is above or below is enough, and holds for longer.
            self._is_above(other) if self._value > other else self._is_above(other - 1)
            return False
        return self.exactly() == exact(other)

    def __ne__(self, other: object) -> Any:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.exactly())

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __index__(self) -> int:
        return self.exactly()

    def __int__(self) -> int:
        return self.exactly()

    def __float__(self) -> float:
        return float(self.exactly())

    def __str__(self) -> str:
        return str(self.exactly())

    def __repr__(self) -> str:
        return repr(self.exactly())

    def __format__(self, spec: str) -> str:
        return format(self.exactly(), spec)

    def __neg__(self) -> VaryingInt:
        return self._moved(-1, 0)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotLocal(f"a number's .{name}")


def _through(operation: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """An operator and its reflection, on the plain numbers."""

    def plain(self: VaryingInt, other: Any) -> Any:
        return operation(self.exactly(), exact(other))

    def reflected(self: VaryingInt, other: Any) -> Any:
        return operation(exact(other), self.exactly())

    return plain, reflected


for _name in ("mul", "truediv", "floordiv", "mod", "pow"):
    _plain, _reflected = _through(getattr(operator, _name))
    setattr(VaryingInt, f"__{_name}__", _plain)
    setattr(VaryingInt, f"__r{_name}__", _reflected)


def exact(value: Any) -> Any:
    """The plain value; reports that it was used as it is."""
    return value.exactly() if isinstance(value, VaryingInt) else value


def now(value: Any) -> Any:
    """The plain value; reports no conclusion."""
    return value.peek() if isinstance(value, VaryingInt) else value
