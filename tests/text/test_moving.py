"""A number that may change acts like its current value, and reports what was concluded from it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.text.replay.moving import (
    LENGTH,
    Bound,
    Conclusion,
    Exactly,
    Key,
    NotLocal,
    VaryingInt,
    both,
)

OPERATORS = (
    *(operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne),
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod),
)
SMALL = st.integers(-6, 6)


def tried(
    operation: Callable[[Any, Any], Any], base: int, sign: int, offset: int, other: int, swap: bool
) -> tuple[Any, list[Conclusion]]:
    """The result as a plain value, and the conclusions on the way."""
    concluded: list[Conclusion] = []

    def report(key: Key, conclusion: Conclusion) -> None:
        assert key == LENGTH
        concluded.append(conclusion)

    moving = VaryingInt(report, LENGTH, base, sign=sign, offset=offset)
    pair = (other, moving) if swap else (moving, other)
    try:
        result = operation(*pair)
    except ZeroDivisionError:
        return ZeroDivisionError, concluded
    return (result.peek() if isinstance(result, VaryingInt) else result), concluded


@given(
    st.sampled_from(OPERATORS), SMALL, SMALL, st.sampled_from((1, -1)), SMALL, SMALL, st.booleans()
)
def test_if_a_conclusion_holds_the_result_is_the_same(
    operation: Callable[[Any, Any], Any],
    base: int,
    later: int,
    sign: int,
    offset: int,
    other: int,
    swap: bool,
) -> None:
    result, concluded = tried(operation, base, sign, offset, other, swap)
    plain = (other, sign * base + offset) if swap else (sign * base + offset, other)
    try:
        assert result == operation(*plain)
    except ZeroDivisionError:
        assert result is ZeroDivisionError
    assert all(one.holds(base) for one in concluded)

    # A sum is no conclusion: the result is again a number that may change.
    if concluded and all(one.holds(later) for one in concluded):
        assert tried(operation, later, sign, offset, other, swap)[0] == result


def test_the_difference_of_two_moving_numbers_of_a_kind_is_certain() -> None:
    length = VaryingInt(lambda key, conclusion: pytest.fail("nothing was concluded"), LENGTH, 9)

    assert (length - 1) - (length - 1 - 4) == 4
    assert type((length - 1) - (length - 1 - 4)) is int


@pytest.mark.parametrize(
    "use",
    [str, int, hash, list("abcdefghijk").__getitem__, range, "{}".format, "%d".__mod__],
    ids=["text", "int", "hash", "index", "range", "format", "percent"],
)
def test_an_operation_that_needs_the_number_concludes_its_value(use: Callable[[Any], Any]) -> None:
    concluded: list[Conclusion] = []
    moving = VaryingInt(lambda key, conclusion: concluded.append(conclusion), LENGTH, 7)

    assert use(moving) == use(7)
    assert set(concluded) == {Exactly(7)}


def test_an_unexpected_operation_is_not_local() -> None:
    with pytest.raises(NotLocal, match="bit_length"):
        VaryingInt(lambda key, conclusion: None, LENGTH, 7).bit_length()


def test_conclusions_about_one_number_are_combined() -> None:
    assert both(Bound(low=2), Bound(high=9)) == Bound(2, 9)
    assert both(Bound(low=2), Bound(low=4)) == Bound(low=4)
    assert both(Exactly(3), Bound(low=2)) == both(Bound(low=2), Exactly(3)) == Exactly(3)


@pytest.mark.parametrize("other", [True, 1.0, "1", None])
def test_equal_values_that_print_differently_are_not_the_same(other: object) -> None:
    assert Exactly(1).holds(1)
    assert not Exactly(1).holds(other)
    assert not Bound(low=0).holds(other)
