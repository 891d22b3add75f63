"""One rendering of a conversation that leaves out messages whose text is known.

A session's next turn has the same messages and a few more. Since a template is a program, only
running it shows whether the old messages still render to the same text. So instead of a list, it
runs on our own messages, loops and namespaces (`walk.py`). For each round of a loop over the
messages we record the conclusions from values that may change (`moving.py`). A message and its
neighbours, its position and the tools cannot change. In the next turn a loop skips the rounds whose
conclusions still hold: they would write the same text and change nothing else. Rounds that change a
namespace or look at the conversation's end are never skipped. Everything read outside the loops
(the *trace*) must be identical. Anything unforeseen raises NotLocal, and the template is rendered
in full: no template renders wrongly, and an unusual one only gains no speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jinja2.utils import Namespace

from segue.text.conversation import JsonObject
from segue.text.replay.moving import (
    LENGTH,
    Conclusion,
    Conclusions,
    Exactly,
    Key,
    NotLocal,
    VaryingInt,
    both,
    now,
)
from segue.text.replay.segments import LoopMemory, MessageSegments


@dataclass(slots=True)
class Round:
    """One iteration of a loop over the messages."""

    index: int
    first_piece: int
    conclusions: dict[Key, Conclusion] = field(default_factory=dict)
    can_skip: bool = True


@dataclass(slots=True)
class Emitted:
    """The loop that wrote the messages: their known text is inserted here."""

    loop: int
    skipped: int
    """How many messages were skipped, from the first on."""
    first_piece: int
    """The index, among all pieces, at which the text of the others starts."""
    ends: list[int] = field(default_factory=list)
    """The number of pieces after each round that ran."""


class Replay:
    """The state of one rendering. `known` are the loops of an earlier one, which had the same first
    `num_same` messages.
    """

    def __init__(
        self,
        num_messages: int,
        message: Callable[[int], JsonObject],
        known: tuple[LoopMemory, ...] = (),
        num_same: int = 0,
    ) -> None:
        self.num_messages = num_messages
        self.message = message
        self.pieces: list[str] = []
        self.loops: list[LoopMemory] = []
        self.emitted: Emitted | None = None
        self.round: Round | None = None
        self.length = VaryingInt(self.conclude, LENGTH, num_messages)
        self._known = known
        self._num_same = num_same
        self._trace: list[tuple[Key, Conclusion]] = []
        self._reach = 0
        self._namespaces: list[dict[str, Any]] = []

    def conclude(self, key: Key, conclusion: Conclusion) -> None:
        if self.round is None:
            self._trace.append((key, conclusion))
            return
        earlier = self.round.conclusions.get(key)
        self.round.conclusions[key] = both(earlier, conclusion) if earlier else conclusion

    def look_at_end(self) -> None:
        """Called when an appended message would change the result of a read."""
        if self.round is None:
            raise NotLocal("the conversation's end, outside a loop over the messages")
        self.round.can_skip = False

    def read(self, index: int) -> JsonObject:
        """The message at `index`."""
        if self.round is None:
            self._reach = max(self._reach, index + 1)
        elif index > self.round.index + 1:
            # It may differ in the next turn, if the client changes its history.
            self.round.can_skip = False
        return self.message(index)

    def holds(self, conclusions: Conclusions) -> bool:
        return all(one.holds(self._value(key)) for key, one in conclusions.items())

    def _value(self, key: Key) -> object:
        if key == LENGTH:
            return self.num_messages
        number, name = key
        return now(self._namespaces[number].get(name)) if number < len(self._namespaces) else None

    def namespace(self, *args: Any, **kwargs: Any) -> Namespace:
        """Replaces jinja2's. A namespace that is created in a round is local to it."""
        if self.round is not None:
            return Namespace(*args, **kwargs)
        values = {name: _scalar(value) for name, value in dict(*args, **kwargs).items()}
        self._namespaces.append(values)
        return _Noted(self, len(self._namespaces) - 1, values)

    def start_loop(self) -> MessageSegments:
        """Records a loop, and returns the messages that it may skip."""
        if self.round is not None:
            raise NotLocal("a loop over the messages within a loop over the messages")
        number, trace = len(self.loops), tuple(self._trace)
        self.loops.append(LoopMemory(trace, self._reach))
        known = self._known[number] if number < len(self._known) else None
        if known is None or known.trace != trace or known.reach > self._num_same:
            return MessageSegments()
        if known.writes and self.emitted is not None:
            return MessageSegments()
        self.loops[-1].writes = known.writes
        # A round may look at the message after its own, so that message must be the same too.
        return known.segments.before(self._num_same - 1)

    def has_written(self, since: int) -> bool:
        return any(self.pieces[since:])


class _Noted(Namespace):
    """A namespace that outlives a round. Reading it reports a conclusion; changing it means that
    the round cannot be skipped.
    """

    def __init__(self, replay: Replay, number: int, values: dict[str, Any]) -> None:
        super().__init__()
        object.__setattr__(self, "noted", (replay, number, values))

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return object.__getattribute__(self, name)
        replay, number, values = object.__getattribute__(self, "noted")
        if name not in values:
            raise NotLocal(f"a namespace without {name!r}")
        value = values[name]
        if replay.round is None and isinstance(value, VaryingInt):
            return value
        plain = now(value)
        if replay.round is not None and type(plain) is int:
            return VaryingInt(replay.conclude, (number, name), plain)
        replay.conclude((number, name), Exactly(plain))
        return plain

    def __setitem__(self, name: str, value: Any) -> None:
        replay, number, values = object.__getattribute__(self, "noted")
        value = _scalar(value)
        if replay.round is not None:
            old = values.get(name, _NOTHING)
            if isinstance(value, VaryingInt) or not Exactly(value).holds(now(old)):
                replay.round.can_skip = False
            else:
                replay.conclude((number, name), Exactly(value))
        values[name] = value


_NOTHING = object()


def _scalar(value: Any) -> Any:
    """The values that a namespace may hold: cheap to compare and immutable."""
    if isinstance(value, VaryingInt):
        return value if value.depends_on(LENGTH) else value.exactly()
    if value is None or isinstance(value, str | int | float):
        return value
    raise NotLocal(f"a namespace that holds a {type(value).__name__}")
