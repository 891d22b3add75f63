"""What a worker keeps for later turns, as it reports it to the routers.

Prefixes are named by their digests (`segue/api/prompt.py`), so a router that never saw a prompt
finds the workers that hold the start of it, and learns nothing about its text.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.types import SessionId


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A session that has a lease on the worker."""

    session_id: SessionId
    tokens: int
    """Tokens whose pages are there."""
    checkpoint_tokens: int
    """The longest prefix of them whose state is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptChanges:
    """Changes since the last report."""

    with_state: tuple[bytes, ...] = ()
    """Digests of prefixes whose pages are there, and a state at their end."""
    without_state: tuple[bytes, ...] = ()
    """Digests of prefixes whose pages are there."""
    gone: tuple[bytes, ...] = ()
    """Digests of prefixes that are no longer reported."""
    sessions: tuple[KeptSession, ...] = ()
    ended: tuple[SessionId, ...] = ()
    """Sessions that no longer have a lease."""
