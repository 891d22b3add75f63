"""Runs of adjacent messages, with the conditions under which a loop may skip them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from segue.text.replay.moving import Bound, Conclusion, Conclusions, Exactly, Key, both

MAX_SEGMENTS = 32
"""Above this number segments are joined: there are fewer to search, but some messages are rendered
again unnecessarily.
"""

Trace: TypeAlias = tuple[tuple[Key, Conclusion], ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Messages from `first` up to, not including, `end`."""

    first: int
    end: int
    conclusions: Conclusions = field(default_factory=dict)

    def before(self, end: int) -> Segment:
        return self if self.end <= end else Segment(self.first, end, self.conclusions)

    def joined(self, later: Segment) -> Segment:
        conclusions = dict(self.conclusions)
        for key, one in later.conclusions.items():
            earlier = conclusions.get(key)
            conclusions[key] = both(earlier, one) if earlier else one
        return Segment(self.first, later.end, conclusions)


class MessageSegments:
    """In order, without overlap."""

    def __init__(self) -> None:
        self._list: list[Segment] = []

    @property
    def end(self) -> int:
        return self._list[-1].end if self._list else 0

    def append(self, segment: Segment) -> None:
        last = self._list[-1] if self._list else None
        if last is None or last.end != segment.first:
            self._list.append(segment)
            del self._list[:-MAX_SEGMENTS]
        elif len(self._list) >= MAX_SEGMENTS or _go_together(last, segment):
            self._list[-1] = last.joined(segment)
        else:
            self._list.append(segment)

    def before(self, end: int) -> MessageSegments:
        """Only the messages before `end`."""
        kept = MessageSegments()
        kept._list = [one.before(end) for one in self._list if one.first < end]
        return kept

    def valid_from_start(self, holds: Callable[[Conclusions], bool]) -> MessageSegments:
        """The longest run from the first message on that may be skipped."""
        valid = MessageSegments()
        for one in self._list:
            if one.first != valid.end or not holds(one.conclusions):
                break
            valid._list.append(one)
        return valid

    def holding(self, index: int) -> Segment | None:
        """The segment with this message. Drops the segments after it: a walk goes backwards."""
        while self._list and self._list[-1].first > index:
            self._list.pop()
        return self._list[-1] if self._list and index < self._list[-1].end else None

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._list)


@dataclass(slots=True)
class LoopMemory:
    """A record of one loop over the messages."""

    trace: Trace
    """The conclusions drawn outside loops before it started."""
    reach: int
    """The number of messages, from the first on, that may have been read outside loops."""
    segments: MessageSegments = field(default_factory=MessageSegments)
    writes: bool = False
    """Whether its text is inserted when messages are skipped."""


def _go_together(last: Segment, new: Segment) -> bool:
    """Whether both will probably hold for the same time."""
    return all(
        key in last.conclusions and _same_kind(last.conclusions[key], one)
        for key, one in new.conclusions.items()
    )


def _same_kind(one: Conclusion, other: Conclusion) -> bool:
    if isinstance(one, Bound) and isinstance(other, Bound):
        return [end is None for end in one] == [end is None for end in other]
    return one == other and isinstance(one, Exactly)
