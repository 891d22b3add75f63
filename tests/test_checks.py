"""The cost of checks: an accepted value is not formatted."""

from __future__ import annotations

from typing import NoReturn

import pytest

from segue.api.checks import (
    require_label,
    require_number,
    require_seconds,
    require_type,
    require_whole,
)
from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, SessionId, TurnId, TurnRequest


class _Unprintable(Message):
    """Stands for a large conversation: formatting it would cost more than the whole check."""

    def __repr__(self) -> NoReturn:
        raise AssertionError("a value that is accepted was printed")


class _Number(float):
    def __repr__(self) -> NoReturn:
        raise AssertionError("a value that is accepted was printed")

    __format__ = __str__ = __repr__  # type: ignore[assignment]


class _Text(str):
    __slots__ = ()

    def __repr__(self) -> NoReturn:
        raise AssertionError("a value that is accepted was printed")


def test_an_accepted_conversation_is_not_formatted() -> None:
    chat = ChatInput(messages=tuple(_Unprintable(role="user", content=str(n)) for n in range(400)))

    request = TurnRequest(turn_id=TurnId("t"), session_id=SessionId("s"), input=chat)

    assert request.input is chat


def test_no_check_formats_an_accepted_value() -> None:
    require_type("value", _Text("x"), str, "a text")
    require_label("value", _Text("x"))
    require_number("value", _Number(0.5), 0.0, 1.0)
    require_seconds("value", _Number(0.5))
    require_whole("value", 1)


@pytest.mark.parametrize("value", [float("nan"), True, "1"])
def test_an_invalid_number_of_seconds_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="must be a number of seconds, got"):
        require_seconds("deadline_s", value)
