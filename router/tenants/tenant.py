"""A tenant: the owner of sessions, turns and cached prefixes, known by its API keys."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from segue.api.checks import require_label
from segue.api.errors import PermissionDenied
from segue.api.prompt import salt_of
from segue.api.types import SessionId, TurnRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# No tenant's name contains it, so a session's name cannot look like another tenant's.
_SEPARATOR = "/"

DEFAULT_NAME = "default"
"""The tenant of keys that are given without one. Also the metrics' label for the open router's
tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 is no limit."""

    max_turns: int = 0
    """Most turns in flight, running or waiting."""
    tokens_per_minute: int = 0
    """Prompt tokens that were computed, and tokens that were generated."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "tokens_per_minute"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """The only tenant of a router without keys has an empty name."""

    name: str = ""
    limits: Limits = Limits()
    shares_prefixes: bool = False
    """Its turns share cached prefixes with other tenants that have this set."""
    is_operator: bool = False
    """Its keys may take workers out of service, although those hold other tenants' sessions."""

    def __post_init__(self) -> None:
        if self.name and _NAME.fullmatch(self.name) is None:
            raise ValueError(
                "a tenant's name must have 1 to 64 letters, digits and ._- and start with a letter "
                f"or digit, got {self.name!r:.80}"
            )

    @property
    def scope(self) -> str:
        """The prefix of this tenant's session names within the cluster."""
        return f"{self.name}{_SEPARATOR}" if self.name else ""

    def require_operator(self) -> None:
        """Raises PermissionDenied."""
        if not self.is_operator:
            raise PermissionDenied(
                "expected an operator's API key, got a tenant's: use a key that the router was "
                "started with, or one of a tenant with operator = true"
            )

    def own(self, request: TurnRequest) -> TurnRequest:
        """The request with the session's name within the cluster, and the salt of its pages. Raises
        InvalidRequest."""
        session_id = self.owned(request.session_id)
        salt = salt_of("" if self.shares_prefixes else self.name, request.cache_salt)
        if not (self.name or salt):
            return request
        return replace(request, session_id=session_id, salt=salt)

    def owned(self, session_id: SessionId) -> SessionId:
        """The name within the cluster of the tenant's session. Raises InvalidRequest."""
        require_label("session_id", session_id)
        return SessionId(self.scope + session_id) if session_id else session_id

    def shown(self, session_id: SessionId) -> SessionId:
        """The tenant's own name for one of its sessions."""
        return SessionId(session_id.removeprefix(self.scope))


OPEN = Tenant(is_operator=True)
"""All clients, if the router has no keys."""
