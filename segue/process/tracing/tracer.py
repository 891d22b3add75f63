"""The interface for tracing: spans for a process's part of a turn, and for finished stages.

The classes here do nothing, at no cost; `otel.py` has the tracer that exports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = "str | bool | int | float | Sequence[str]"
Attributes: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event of a span."""

    name: str
    at: float
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a turn that has ended. Times are in seconds of the process's clock."""

    name: str
    started_at: float
    ended_at: float
    attributes: Attributes = field(default_factory=dict)
    events: Sequence[Happened] = ()
    error: str = ""
    """The class of the error that ended it, never its text, which may quote a user."""


class Span:
    """A process's part of a turn. This class records nothing."""

    records = False
    """Whether it records anything, so that callers can skip the preparation."""
    trace_id = ""
    """For exemplars; empty if the span is not recorded."""

    def rename(self, name: str) -> None: ...
    def add(self, stage: Stage) -> None:
        """Creates a child span."""

    def describe(self, attributes: Attributes) -> None: ...
    def happened(self, event: Happened) -> None: ...
    def failed(self, error: str) -> None:
        """`error`: as in `Stage`. The first one wins."""


NO_SPAN = Span()


class Tracer:
    """This one is off."""

    is_on = False

    @contextlib.contextmanager
    def span(
        self, name: str, clock: Callable[[], float], *, is_server: bool = True
    ) -> Iterator[Span]:
        """A span of the current trace, or of a new one, for the duration of the block, in which it
        is the current trace context. An exception that leaves the block becomes its error, unless
        it has one. `clock` is the clock of the stages' times.
        """
        yield NO_SPAN

    def close(self) -> None:
        """Exports the remaining spans, within a short time limit."""


OFF = Tracer()
