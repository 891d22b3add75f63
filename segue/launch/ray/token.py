"""The token that a Ray started here asks of its callers: in a file that only its owner may read.

Ray turns its token on for clusters that it starts, and makes one if there is none, but in a file
that every user of the machine may read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path

_PATH = Path(".ray") / "auth_token"


def keep_token_private(environment: MutableMapping[str, str], home: Path) -> None:
    """Makes Ray's token where Ray looks for it, unless the environment names another one or has
    turned it off. If that folder cannot be written, the token is in the environment, which Ray's
    processes inherit.
    """
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = home / _PATH
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            os.fchmod(descriptor, 0o600)
            if not file.read().strip():
                file.write(secrets.token_hex(32))
    except OSError:
        if not _readable(path):
            environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_text().strip())
    except OSError:
        return False
