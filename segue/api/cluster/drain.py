"""Drains: the sessions that the worker holds, and the report."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from segue.api.checks import (
    MAX_SESSION_CHARS,
    counted,
    require,
    require_ascending,
    require_name,
    require_number,
)
from segue.api.prompt import PrefixName
from segue.api.types import SessionId

MAX_DRAIN_S = 86_400.0
"""The longest drain: no turn runs longer."""
MAX_PREFIXES = 64
"""Most states of one session that are moved; a prompt leaves fewer."""
_MAX_LEASE_S = 1e9
_MAX_TOKENS = 1 << 32


class LeftReason(enum.StrEnum):
    """Why a session was not moved. Its next turn computes its prompt, except after ELSEWHERE."""

    NOT_ASKED = "not asked for"
    """The order excluded moves."""
    ELSEWHERE = "needed no move"
    """Its last turn ran on another worker, or it was released: the router does not know it."""
    NO_WORKER = "no other decode worker"
    NO_MEMORY = "no memory elsewhere"
    """All memory of the other workers is leased by their own sessions."""
    NO_TIME = "no time left"
    NO_STATE = "no state left"
    """The worker has evicted its states."""
    STOPPING = "router stops"
    FAILED = "transfer failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSession:
    """A session with a lease on a worker."""

    session_id: SessionId
    prefixes: tuple[PrefixName, ...]
    """Prefixes of its last prompt and answer that end where the worker has a state, ascending."""
    expires_in_s: float
    """Until its lease ends."""

    def __post_init__(self) -> None:
        require_name("session_id", self.session_id, max_chars=MAX_SESSION_CHARS)
        require_prefixes(self.prefixes)
        require_number("expires_in_s", self.expires_in_s, 0.0, _MAX_LEASE_S)


def require_prefixes(prefixes: tuple[PrefixName, ...]) -> None:
    """Raises InvalidRequest."""
    require(
        1 <= len(prefixes) <= MAX_PREFIXES,
        f"a session has 1 to {MAX_PREFIXES} prefixes, got {len(prefixes)}",
    )
    lengths = [prefix.num_tokens for prefix in prefixes]
    require_ascending("the lengths of a session's prefixes", lengths, low=1, high=_MAX_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The part of a session that a worker has after it pulled it from another."""

    kept_tokens: int
    """Tokens whose pages are there."""
    kept_states: tuple[int, ...]
    """Lengths of the prefixes whose states are there, ascending."""
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class MoveReport:
    """The outcome for each session to move."""

    moved: Mapping[SessionId, int] = field(default_factory=dict)
    """The bytes that were moved for each."""
    left: Mapping[SessionId, LeftReason] = field(default_factory=dict)

    def __or__(self, other: MoveReport) -> MoveReport:
        return MoveReport({**self.moved, **other.moved}, {**self.left, **other.left})

    @classmethod
    def all_left(cls, sessions: Iterable[SessionId], reason: LeftReason) -> MoveReport:
        return cls(left=dict.fromkeys(sessions, reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    ended_turns: int = 0
    """Turns that ended on the worker."""
    moved_turns: int = 0
    """Turns that the drain's time ran out for: other workers continue them."""
    moved_sessions: int = 0
    moved_bytes: int = 0
    left: Mapping[LeftReason, int] = field(default_factory=dict)
    """The number of sessions that were not moved, by reason."""

    @classmethod
    def of(cls, moves: MoveReport, *, ended_turns: int, moved_turns: int) -> DrainReport:
        return cls(
            ended_turns=ended_turns,
            moved_turns=moved_turns,
            moved_sessions=len(moves.moved),
            moved_bytes=sum(moves.moved.values()),
            left=dict(Counter(moves.left.values())),
        )

    def __str__(self) -> str:
        parts = [f"{counted(self.ended_turns, 'turn')} ended"]
        if self.moved_turns:
            parts.append(f"{counted(self.moved_turns, 'turn')} went on elsewhere")
        size = f" ({self.moved_bytes / 1024:.0f} KiB)" if self.moved_bytes else ""
        parts.append(f"{counted(self.moved_sessions, 'session')} moved{size}")
        left = dict(self.left)
        if num_elsewhere := left.pop(LeftReason.ELSEWHERE, 0):
            parts.append(f"{counted(num_elsewhere, 'session')} {LeftReason.ELSEWHERE.value}")
        if left:
            reasons = ", ".join(f"{count} {reason.value}" for reason, count in left.items())
            parts.append(f"{counted(sum(left.values()), 'session')} not moved ({reasons})")
        return ", ".join(parts)
