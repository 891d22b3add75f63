"""The messages and the loops over them, as a template sees them in `rendering.py`."""

from __future__ import annotations

from typing import Any, NoReturn

from jinja2.runtime import Undefined

from segue.text.conversation import JsonObject
from segue.text.replay.moving import NotLocal, VaryingInt, exact
from segue.text.replay.rendering import Emitted, Replay, Round
from segue.text.replay.segments import Segment


class Messages:
    """The conversation as its template sees it. Only safe operations are supported.

    It is neither a list nor a Sequence, so that every iteration is noticed.
    """

    __slots__ = ("_replay",)

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __bool__(self) -> bool:
        return self._replay.num_messages > 0

    def num(self) -> VaryingInt:
        return self._replay.length

    def __getitem__(self, key: Any) -> Any:
        replay = self._replay
        if isinstance(key, slice):
            if (key.start, key.stop, key.step) == (None, None, -1):
                return Backwards(replay)
            raise NotLocal("a slice of the messages")
        index = exact(key)
        if type(index) is not int:
            raise NotLocal("the messages at an index that is not an integer")
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
    """`messages[::-1]`, which can only be iterated over."""

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
        self._known = replay.start_loop()
        self._number = len(replay.loops) - 1
        self._next = 0 if step > 0 else replay.num_messages - 1
        self._num_skipped = 0
        self._first_piece = len(replay.pieces)
        self._seen: list[Segment | None] = []
        """In the order of iteration; None for a round that must run again."""
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
        """Whether this loop's text can be inserted: it is the first forward loop that writes."""
        replay = self.replay
        if replay.emitted is None and self.step > 0:
            if self._num_skipped:
                raise NotLocal("a loop that writes now but did not for its first messages")
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
    """The `loop` variable in a loop over the messages."""

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
    def length(self) -> VaryingInt:
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
