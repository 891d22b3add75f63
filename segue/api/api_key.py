"""API keys as clients send them and servers store them.

In gRPC and in HTTP a key is sent as `authorization: Bearer KEY`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from segue.api.checks import require

ENVIRONMENT = "SEGUE_API_KEY"
"""The environment variable for keys. Unlike arguments, other users of the machine cannot see it."""

METADATA = "authorization"
_SCHEME = "bearer "
MAX_KEY_CHARS = 256
_KEY = re.compile(rf"[!-+\--~]{{1,{MAX_KEY_CHARS}}}")
_FORM = f"1 to {MAX_KEY_CHARS} printable ASCII characters without spaces and commas"


def is_api_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def require_api_key(text: str) -> None:
    """Raises InvalidRequest, which does not quote the key."""
    require(is_api_key(text), f"an API key must have {_FORM}, got {len(text)} characters")


def split_keys(texts: str) -> list[str]:
    """The keys of a comma-separated list. Raises InvalidRequest."""
    keys = [text for text in (part.strip() for part in texts.split(",")) if text]
    for key in keys:
        require_api_key(key)
    return keys


def one_key(texts: str | None) -> str | None:
    """A client's key: the first one, since `ENVIRONMENT` may list several for a server. Raises
    InvalidRequest.
    """
    return next(iter(split_keys(texts or "")), None)


def key_hash(key: str) -> str:
    """SHA-256 in hex. Keys are random, so a slow hash would add nothing."""
    return hashlib.sha256(key.encode()).hexdigest()


def metadata_with(api_key: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a client's call; empty without a key."""
    return ((METADATA, f"Bearer {api_key}"),) if api_key else ()


def bearer_key(values: Iterable[Any]) -> str:
    """The key in the values of the `authorization` header; empty for none, for another scheme, and
    for several different keys, since two readers might choose differently.
    """
    keys = {
        value[len(_SCHEME) :].strip()
        for value in values
        if isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME
    }
    return keys.pop() if len(keys) == 1 else ""
