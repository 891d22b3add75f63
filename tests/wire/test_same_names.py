"""A field that only one side has cannot be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from segue.api.prompt import PrefixName
from segue.api.turn import ShipReport
from segue.internal.v1 import transfer_pb2
from segue.v1 import session_pb2 as pb
from segue.wire.convert.same_names import message_of, value_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreThanAName:
    num_tokens: int
    digest: bytes
    colour: str = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class LessThanAName:
    num_tokens: int


def test_fields_of_the_same_name_are_copied_both_ways() -> None:
    name = PrefixName(32, b"d" * 16)

    wire = message_of(transfer_pb2.PrefixName, name)

    assert wire == transfer_pb2.PrefixName(num_tokens=32, digest=b"d" * 16)
    assert value_of(PrefixName, wire) == name


def test_repeated_fields_become_tuples() -> None:
    report = ShipReport(kept_states=(16, 32))

    assert value_of(ShipReport, message_of(transfer_pb2.ShipReport, report)) == report


@pytest.mark.parametrize("actual_s", [None, 0.0, 1.5])
def test_an_absent_field_is_none(actual_s: float | None) -> None:
    @dataclass
    class Timed:
        actual_s: float | None

    assert value_of(Timed, pb.Explanation(actual_s=actual_s)) == Timed(actual_s)


def test_a_value_with_a_field_that_the_message_lacks_is_refused() -> None:
    wire = transfer_pb2.PrefixName(num_tokens=32, digest=b"d" * 16)

    with pytest.raises(AssertionError, match="PrefixName has no colour: pass it by hand"):
        value_of(MoreThanAName, wire)
    assert value_of(MoreThanAName, wire, colour="blue").colour == "blue"


def test_a_message_with_a_field_that_the_value_lacks_is_refused() -> None:
    with pytest.raises(AttributeError, match="digest"):
        message_of(transfer_pb2.PrefixName, LessThanAName(num_tokens=1))


def test_a_nested_message_is_passed_explicitly() -> None:
    @dataclass
    class Outcome:
        first_token: object
        report: object

    with pytest.raises(AssertionError, match="first_token is a message: pass it by hand"):
        value_of(Outcome, transfer_pb2.PrefillOutcome())
