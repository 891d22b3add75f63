"""What a supervisor sends to a gateway process, and what that one says back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segue.gateway.config import GatewayConfig
from segue.security.config import Security

SERVING = b"serving\n"
DRAIN = b"drain\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    name: str
    config: GatewayConfig
    router: str
    security: Security
    log: Path | None
    """None: stderr."""
