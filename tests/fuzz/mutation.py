"""Nearly valid messages: any protobuf message, changed in a few of its fields.

It works on descriptors, without knowledge of our messages. Values from earlier messages are
inserted at random, so that a ticket of one answer is sent in another request.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_KEPT_VALUES = 64

INTEGERS = (0, 1, 2, 15, 16, 17, 255, 1000, 1 << 20, 10**6, 2**31 - 1, 2**31, 2**32 - 1)
WIDE_INTEGERS = (
    *INTEGERS,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -1,
    -(2**31),
    -(2**63),
)
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.01, 0.5, 1e-6, 1e-300, 2.0, 100.0, 101.0, 3.4e38, 1e300,
    math.inf, -math.inf, math.nan,
)  # fmt: skip
STRINGS = (
    "", " ", "a", "decode-0", "prefill-0", "\x00", "a\nb", "\u202e", "ß" * 300, "x" * 100_000,
    "<|im_end|>", "</think>", "127.0.0.1:1", "127.0.0.1:99999", "nowhere", "unix:/tmp/x", "[::1]:5",
    '{"type": "function"}', "page", "slot", "kv", "float32",
)  # fmt: skip
RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_REALS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


class MessagePool:
    """Values seen in real messages, by field name, and messages, by type."""

    def __init__(self) -> None:
        self._values: dict[str, deque[Any]] = defaultdict(lambda: deque(maxlen=_KEPT_VALUES))
        self._messages: dict[str, deque[Message]] = defaultdict(lambda: deque(maxlen=_KEPT_VALUES))

    def add(self, message: Message) -> None:
        copy = type(message)()
        copy.CopyFrom(message)
        self._messages[message.DESCRIPTOR.full_name].append(copy)
        for field, value in message.ListFields():
            if is_map(field):
                continue
            for one in list(value)[:8] if field.is_repeated else [value]:
                if field.message_type is None:
                    self._values[field.name].append(one)
                else:
                    self.add(one)

    def value(self, name: str, draw: random.Random) -> Any | None:
        return draw.choice(self._values[name]) if self._values.get(name) else None

    def message(self, full_name: str, draw: random.Random) -> Message | None:
        return draw.choice(self._messages[full_name]) if self._messages.get(full_name) else None


def is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


class Mutator:
    def __init__(self, pool: MessagePool, draw: random.Random) -> None:
        self._pool = pool
        self._draw = draw

    def mutate(self, message: Message) -> None:
        """Makes one to three changes in it."""
        for _ in range(self._draw.choice((1, 1, 1, 2, 3))):
            self._change(message)

    def damage(self, octets: bytes) -> bytes:
        """Damages an encoded message, which then usually cannot be decoded."""
        kind = self._draw.randrange(3)
        if kind == 0:
            return octets[: self._draw.randrange(len(octets) + 1)]
        if kind == 1:
            return octets + self._draw.randbytes(self._draw.randrange(1, 20))
        changed = bytearray(octets or b"\x0a")
        for _ in range(self._draw.randrange(1, 5)):
            changed[self._draw.randrange(len(changed))] = self._draw.randrange(256)
        return bytes(changed)

    def _change(self, message: Message) -> None:
        if not message.DESCRIPTOR.fields:
            return
        field = self._draw.choice(message.DESCRIPTOR.fields)
        if self._draw.random() < 0.1:
            message.ClearField(field.name)
        elif is_map(field):
            self._change_map(getattr(message, field.name), field)
        elif field.is_repeated:
            self._change_repeated(message, field)
        elif field.message_type is not None:
            self._change_message(message, field)
        else:
            setattr(message, field.name, self._scalar(field, getattr(message, field.name)))

    def _change_message(self, message: Message, field: FieldDescriptor) -> None:
        inner = getattr(message, field.name)
        kind = self._draw.random()
        if kind < 0.15:
            inner.SetInParent()
        elif kind < 0.4 and (other := self._pool.message(field.message_type.full_name, self._draw)):
            inner.CopyFrom(other)
        else:
            self._change(inner)

    def _change_map(self, entries: Any, field: FieldDescriptor) -> None:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        if value.message_type is None:
            entries[self._scalar(key, _nothing(key))] = self._scalar(value, _nothing(value))

    def _change_repeated(self, message: Message, field: FieldDescriptor) -> None:
        values = getattr(message, field.name)
        items = list(values)
        changes: list[Callable[[], list[Any]]] = [
            list,
            lambda: self._draw.sample(items, len(items)),
            lambda: items + items,
            lambda: items[: self._draw.randrange(len(items) + 1)],
            lambda: (items or [self._item(field, None)]) * 100,
            lambda: [*items, self._item(field, items[-1] if items else None)],
            lambda: [self._item(field, one) if self._draw.random() < 0.2 else one for one in items],
        ]
        changed = self._draw.choice(changes)()[:20_000]
        message.ClearField(field.name)
        getattr(message, field.name).extend(changed)

    def _item(self, field: FieldDescriptor, before: Any) -> Any:
        if field.message_type is None:
            return self._scalar(field, _nothing(field) if before is None else before)
        copy = field.message_type._concrete_class()
        pooled = before or self._pool.message(field.message_type.full_name, self._draw)
        if pooled is not None:
            copy.CopyFrom(pooled)
        self._change(copy)
        return copy

    def _scalar(self, field: FieldDescriptor, before: Any) -> Any:
        draw = self._draw
        pooled = self._pool.value(field.name, draw)
        if pooled is not None and draw.random() < 0.3 and isinstance(pooled, type(before)):
            return pooled
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return not before
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return draw.choice((0, 1, 2, 3, 99, -1, 2**31 - 1))
        if kind in _REALS:
            return draw.choice((*FLOATS, before * 2, -before, draw.random()))
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return draw.choice((b"", b"\xff" * 32, draw.randbytes(32), bytes(before) * 2))
            return draw.choice((*STRINGS, before + "x", before[:-1], before * 2))
        low, high = RANGES[kind]
        candidates = (*WIDE_INTEGERS, before + 1, before - 1, draw.randrange(low, high))
        return draw.choice([value for value in candidates if low <= value <= high])


def _nothing(field: FieldDescriptor) -> Any:
    """An empty value of the field's type, also if it is repeated."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return b"" if field.type == FieldDescriptor.TYPE_BYTES else ""
    return 0.0 if field.cpp_type in _REALS else 0
