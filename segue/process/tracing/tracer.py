"""What the parts of a process trace with: spans for its share of a turn, and for finished stages.

Here everything does nothing, at no cost; `otel.py` has the tracer that exports.
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
    """A moment of a span."""

    name: str
    at: float
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a turn that has ended. Times are of the process's clock, in seconds."""

    name: str
    started_at: float
    ended_at: float
    attributes: Attributes = field(default_factory=dict)
    events: Sequence[Happened] = ()
    error: str = ""
    """The class of the error that ended it; never its text, which may quote a user."""


class Span:
    """A process's part of a turn. This one records nothing."""

    records = False
    """Whether it is worth to gather what it would record."""
    trace_id = ""
    """If it is recorded: for exemplars."""

    def rename(self, name: str) -> None: ...
    def add(self, stage: Stage) -> None:
        """Makes a span below this one."""

    def describe(self, attributes: Attributes) -> None: ...
    def happened(self, event: Happened) -> None: ...
    def failed(self, error: str) -> None:
        """`error`: as in `Stage`. The first one counts."""


NO_SPAN = Span()


class Tracer:
    """This one is off."""

    is_on = False

    @contextlib.contextmanager
    def span(
        self, name: str, clock: Callable[[], float], *, is_server: bool = True
    ) -> Iterator[Span]:
        """A span of the current trace, or of a new one, for as long as the block runs: in it, the
        current trace context names this span. An exception that leaves the block is its error,
        unless it has one. `clock` is the one of the stages' times.
        """
        yield NO_SPAN

    def close(self) -> None:
        """Exports what is left, for a moment."""


OFF = Tracer()
