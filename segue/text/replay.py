"""One rendering of a conversation that leaves out the messages whose text is known.

A session's next turn has the same messages and a few more. A template is a program, so nobody can
tell from outside whether the old messages will render to the same text. Here the program itself
shows it: it runs on a `Messages` object instead of a list, and on namespaces and loops of ours.
For each round of a loop over the messages we note what it concluded from things that may change
(`moving.py`). What cannot change is not noted: a message and its neighbours, its position, the
tools. In the next turn a loop skips the rounds whose conclusions still hold, since they would do
what they did before: write the same text and change nothing else. Rounds that change a namespace or
look at the conversation's end are never skipped. What was read outside the loops must be the same
altogether (the *trace*). Whatever is not foreseen here raises NotLocal, and the template is
rendered the plain way. So no template renders wrongly; one that does unusual things gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jinja2.runtime import Undefined
from jinja2.utils import Namespace

from segue.text.conversation import JsonObject
from segue.text.moving import (
    LENGTH,
    Conclusion,
    Conclusions,
    Exactly,
    Key,
    Moving,
    NotLocal,
    both,
    exact,
    now,
)
from segue.text.segments import LoopMemory, Segment, Segments


@dataclass(slots=True)
class Round:
    """One message's turn in a loop."""

    index: int
    first_piece: int
    conclusions: dict[Key, Conclusion] = field(default_factory=dict)
    can_skip: bool = True


@dataclass(slots=True)
class Emitted:
    """The loop that wrote the messages: the place where known text is put back."""

    loop: int
    skipped: int
    """So many messages were left out, from the first on."""
    first_piece: int
    """Where the text of the others begins, among all pieces."""
    ends: list[int] = field(default_factory=list)
    """After each round that ran, in pieces."""


class Replay:
    """The state of one rendering. `known` are the loops of an earlier one, whose first `num_same`
    messages were those of this one.
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
        self.length = Moving(self.conclude, LENGTH, num_messages)
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
        """Something was read that another message after the last one would change."""
        if self.round is None:
            raise NotLocal("the conversation's end, outside a loop over the messages")
        self.round.can_skip = False

    def read(self, index: int) -> JsonObject:
        """A message by its number."""
        if self.round is None:
            self._reach = max(self._reach, index + 1)
        elif index > self.round.index + 1:
            # In the next turn it may be another one, if the client changes its history.
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
        """In place of jinja2's. One that is made in a round is the round's own affair."""
        if self.round is not None:
            return Namespace(*args, **kwargs)
        values = {name: _scalar(value) for name, value in dict(*args, **kwargs).items()}
        self._namespaces.append(values)
        return _Noted(self, len(self._namespaces) - 1, values)

    def begin_loop(self) -> Segments:
        """Notes a loop, and returns what may be skipped in it."""
        if self.round is not None:
            raise NotLocal("a loop over the messages within a loop over the messages")
        number, trace = len(self.loops), tuple(self._trace)
        self.loops.append(LoopMemory(trace, self._reach))
        known = self._known[number] if number < len(self._known) else None
        if known is None or known.trace != trace or known.reach > self._num_same:
            return Segments()
        if known.writes and self.emitted is not None:
            return Segments()
        self.loops[-1].writes = known.writes
        # A round may look at the message after its own, so that one must be the same too.
        return known.segments.before(self._num_same - 1)

    def has_written(self, since: int) -> bool:
        return any(self.pieces[since:])


class Messages:
    """The conversation as its template sees it: only what is known to be safe can be done with it.

    No list and no Sequence, so that nothing can walk through it unseen.
    """

    __slots__ = ("_replay",)

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __bool__(self) -> bool:
        return self._replay.num_messages > 0

    def num(self) -> Moving:
        return self._replay.length

    def __getitem__(self, key: Any) -> Any:
        replay = self._replay
        if isinstance(key, slice):
            if (key.start, key.stop, key.step) == (None, None, -1):
                return Backwards(replay)
            raise NotLocal("a slice of the messages")
        index = exact(key)
        if type(index) is not int:
            raise NotLocal("the messages at something that is no whole number")
        if index < 0:
            replay.look_at_end()
            index += replay.num_messages
        if not 0 <= index < replay.num_messages:
            replay.look_at_end()
            raise IndexError(index)
        return replay.read(index)

    def walk(self) -> Walk:
        return Walk(self._replay, 1)

    def _refuse(self, *_: object) -> NoReturn:
        raise NotLocal("all messages at once")

    __iter__ = __len__ = __contains__ = __lt__ = __add__ = __radd__ = _refuse
    __mul__ = __rmul__ = __str__ = __repr__ = __format__ = __hash__ = _refuse
    __eq__ = __ne__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotLocal(f"the messages' .{name}")


class Backwards(Messages):
    """`messages[::-1]`, of which nothing can be done but walk."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        raise NotLocal("a part of the reversed messages")

    def walk(self) -> Walk:
        return Walk(self._replay, -1)


class Walk:
    """The rounds of one loop over the messages, forwards or backwards."""

    def __init__(self, replay: Replay, step: int) -> None:
        self.replay = replay
        self.step = step
        self.index = -1
        self._known = replay.begin_loop()
        self._number = len(replay.loops) - 1
        self._next = 0 if step > 0 else replay.num_messages - 1
        self._num_skipped = 0
        self._first_piece = len(replay.pieces)
        self._seen: list[Segment | None] = []
        """In the order of the walk; None for a round that must run again."""
        if step > 0:
            self._skip_forwards()

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> JsonObject:
        replay = self.replay
        self._end_round()
        if self.step < 0:
            self._skip_backwards()
        if not 0 <= self._next < replay.num_messages:
            self._remember()
            raise StopIteration
        self.index = self._next
        self._next += self.step
        replay.round = Round(self.index, len(replay.pieces))
        return replay.message(self.index)

    def _skip_forwards(self) -> None:
        valid = self._known.valid_from_start(self.replay.holds)
        self._seen.extend(valid)
        self._next = self._num_skipped = valid.end
        if self.replay.loops[self._number].writes:
            self.replay.emitted = Emitted(self._number, valid.end, self._first_piece)

    def _skip_backwards(self) -> None:
        while (segment := self._known.holding(self._next)) is not None:
            if not self.replay.holds(segment.conclusions):
                return
            self._seen.append(segment.before(self._next + 1))
            self._next = segment.first - 1

    def _end_round(self) -> None:
        replay = self.replay
        ended, replay.round = replay.round, None
        if ended is None:
            return
        can_skip = ended.can_skip
        if replay.has_written(ended.first_piece):
            can_skip = can_skip and self._is_emitter()
        if replay.emitted is not None and replay.emitted.loop == self._number:
            replay.emitted.ends.append(len(replay.pieces))
        segment = Segment(ended.index, ended.index + 1, ended.conclusions)
        self._seen.append(segment if can_skip else None)

    def _is_emitter(self) -> bool:
        """Whether this is the one loop whose text can be put back: the first forward one that
        writes.
        """
        replay = self.replay
        if replay.emitted is None and self.step > 0:
            if self._num_skipped:
                raise NotLocal("a loop that writes, and did not when its first messages were seen")
            replay.loops[self._number].writes = True
            # The rounds before this one wrote nothing.
            ends = [self._first_piece] * len(self._seen)
            replay.emitted = Emitted(self._number, 0, self._first_piece, ends)
        return replay.emitted is not None and replay.emitted.loop == self._number

    def _remember(self) -> None:
        segments = self.replay.loops[self._number].segments
        if self.step < 0:
            for one in reversed(self._seen):
                if one is not None:
                    segments.append(one)
            return
        for one in self._seen:
            if one is None:
                return
            segments.append(one)


class Loop:
    """`loop` of a loop over the messages."""

    __slots__ = ("_undefined", "_walk")

    def __init__(self, walk: Walk, undefined: type[Undefined]) -> None:
        self._walk = walk
        self._undefined = undefined

    def __iter__(self) -> Loop:
        return self

    def __next__(self) -> tuple[JsonObject, Loop]:
        return next(self._walk), self

    @property
    def index0(self) -> Any:
        walk = self._walk
        return walk.index if walk.step > 0 else walk.replay.length - 1 - walk.index

    @property
    def index(self) -> Any:
        return self.index0 + 1

    @property
    def length(self) -> Moving:
        return self._walk.replay.length

    @property
    def revindex0(self) -> Any:
        return self.length - self.index

    @property
    def revindex(self) -> Any:
        return self.length - self.index0

    @property
    def first(self) -> bool:
        return self._is_at_start() if self._walk.step > 0 else self._is_at_end()

    @property
    def last(self) -> bool:
        return self._is_at_end() if self._walk.step > 0 else self._is_at_start()

    def _is_at_start(self) -> bool:
        return self._walk.index == 0

    def _is_at_end(self) -> bool:
        is_at_end = self._walk.index == self._walk.replay.num_messages - 1
        if is_at_end:
            self._walk.replay.look_at_end()
        return is_at_end

    @property
    def previtem(self) -> JsonObject | Undefined:
        return self._beside(-self._walk.step, "there is no previous item")

    @property
    def nextitem(self) -> JsonObject | Undefined:
        return self._beside(self._walk.step, "there is no next item")

    def _beside(self, distance: int, reason: str) -> JsonObject | Undefined:
        walk = self._walk
        index = walk.index + distance
        if 0 <= index < walk.replay.num_messages:
            return walk.replay.message(index)
        if index > 0:
            walk.replay.look_at_end()
        return self._undefined(reason)

    def _refuse(self, *_: object) -> NoReturn:
        raise NotLocal("the loop itself")

    __len__ = __call__ = __str__ = __repr__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotLocal(f"loop.{name}")


class _Noted(Namespace):
    """A namespace that outlives a round: to read it is to conclude, to change it keeps a round."""

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
        if replay.round is None and isinstance(value, Moving):
            return value
        plain = now(value)
        if replay.round is not None and type(plain) is int:
            return Moving(replay.conclude, (number, name), plain)
        replay.conclude((number, name), Exactly(plain))
        return plain

    def __setitem__(self, name: str, value: Any) -> None:
        replay, number, values = object.__getattribute__(self, "noted")
        value = _scalar(value)
        if replay.round is not None:
            old = values.get(name, _NOTHING)
            if isinstance(value, Moving) or not Exactly(value).holds(now(old)):
                replay.round.can_skip = False
            else:
                replay.conclude((number, name), Exactly(value))
        values[name] = value


_NOTHING = object()


def _scalar(value: Any) -> Any:
    """What a namespace may hold: compared in no time, and never changed in place."""
    if isinstance(value, Moving):
        return value if value.depends_on(LENGTH) else value.exactly()
    if value is None or isinstance(value, str | int | float):
        return value
    raise NotLocal(f"a namespace that holds a {type(value).__name__}")
