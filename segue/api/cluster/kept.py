"""A worker's report of the prefixes and sessions in its cache to the routers.

Prefixes are named by their digests (`segue/api/prompt.py`), so a router can find the workers that
hold the start of a prompt it has never seen, and learns nothing about the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.types import SessionId


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A session that has a lease on the worker."""

    session_id: SessionId
    tokens: int
    """Tokens whose pages it holds."""
    checkpoint_tokens: int
    """The longest prefix of them whose state it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptChanges:
    """Changes since the last report."""

    with_state: tuple[bytes, ...] = ()
    """Digests of prefixes whose pages and final state it holds."""
    without_state: tuple[bytes, ...] = ()
    """Digests of prefixes of which it holds only the pages."""
    gone: tuple[bytes, ...] = ()
    """Digests of prefixes that are no longer reported."""
    sessions: tuple[KeptSession, ...] = ()
    ended: tuple[SessionId, ...] = ()
    """Sessions that no longer have a lease."""
