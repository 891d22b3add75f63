"""Copies fields of the same name between our values and protobuf messages.

Every field of the target must have a namesake in the source or be passed by hand, so a field that
was added on one side only fails at the first use. Pass by hand: enums, oneofs, repeated messages,
fields whose names differ and, to a value, nested messages.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    # Generic only in its stubs.
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

Kind = TypeVar("Kind", bound=Message)
Value = TypeVar("Value")
Number = TypeVar("Number", bound=int)


def enum_tables(
    enum: _EnumTypeWrapper[Number], names: Mapping[Value, str]
) -> tuple[dict[Value, Number], dict[Number, Value]]:
    """Our values to the numbers of a wire enum, and back. `names` has each value's name in the
    enum, without the prefix that all of them have."""
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    to_wire = {value: enum.Value(f"{prefix}{name}") for value, name in names.items()}
    return to_wire, {number: value for value, number in to_wire.items()}


def message_of(kind: type[Kind], value: object, /, **by_hand: Any) -> Kind:
    """None becomes an absent field, and a nested value a nested message."""
    target: Any = kind
    names, inner = _of_message(target, tuple(by_hand))
    fields = {name: getattr(value, name) for name in names}
    for name, inner_kind in inner:
        if (part := getattr(value, name)) is not None:
            fields[name] = message_of(inner_kind, part)
    return kind(**fields, **by_hand)


def value_of(kind: type[Value], message: Message, /, **by_hand: Any) -> Value:
    """Repeated fields become tuples; an optional field that is absent becomes None."""
    target: Any = kind
    source: Any = type(message)
    readers = _of_value(target, source, tuple(by_hand))
    return kind(**{name: read(message) for name, read in readers}, **by_hand)


@functools.cache
def _of_message(
    kind: Any, by_hand: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[tuple[str, type[Message]], ...]]:
    fields = [field for field in kind.DESCRIPTOR.fields if field.name not in by_hand]
    repeated = [one.name for one in fields if one.message_type is not None and one.is_repeated]
    assert not repeated, (
        f"{kind.DESCRIPTOR.name} has many messages in {repeated}: pass them by hand"
    )
    inner = [
        (one.name, GetMessageClass(one.message_type))
        for one in fields
        if one.message_type is not None
    ]
    return tuple(one.name for one in fields if one.message_type is None), tuple(inner)


@functools.cache
def _of_value(
    kind: Any, source: Any, by_hand: tuple[str, ...]
) -> tuple[tuple[str, Callable[[Message], Any]], ...]:
    known = source.DESCRIPTOR.fields_by_name
    names = [field.name for field in dataclasses.fields(kind) if field.name not in by_hand]
    missing = [name for name in names if name not in known]
    assert not missing, f"{source.DESCRIPTOR.name} has no {', '.join(missing)}: pass it by hand"
    return tuple((name, _reader(known[name])) for name in names)


def _reader(field: Any) -> Callable[[Message], Any]:
    name = field.name
    assert field.message_type is None, f"{field.full_name} is a message: pass it by hand"
    if field.is_repeated:
        return lambda message: tuple(getattr(message, name))
    if field.has_presence:
        return lambda message: getattr(message, name) if message.HasField(name) else None
    return lambda message: getattr(message, name)
