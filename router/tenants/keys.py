"""API keys and their tenants. Only hashes of keys are stored."""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router.config import RouterConfig
from router.tenants.tenant import DEFAULT_NAME, OPEN, Limits, Tenant
from segue.api.api_key import is_api_key, key_hash
from segue.api.errors import InvalidConfig, Unauthenticated
from segue.config import section

logger = logging.getLogger(__name__)

_HASH = re.compile(r"[0-9a-f]{64}")
_HASHED = "sha256:"
_FILE_FORM = (
    'a file of keys has tables such as [tenants.NAME] with keys = ["…", "sha256:…"] and, if '
    "wanted, max_turns, tokens_per_minute and operator"
)

Tenants = Mapping[str, Tenant]
"""By the SHA-256 of a key, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _TenantTable:
    """`[tenants.NAME]` of a file of keys."""

    keys: list  # type: ignore[type-arg]  # `section` checks plain types; `_hash_of` checks the keys
    max_turns: int = 0
    tokens_per_minute: int = 0
    operator: bool = False


def tenant_of(tenants: Tenants, key: str) -> Tenant | None:
    """Compares with all keys, so that the time reveals nothing about any of them."""
    found, hashed = None, key_hash(key)
    for known, tenant in tenants.items():
        if hmac.compare_digest(known, hashed):
            found = tenant
    return found


def given_keys(hashes: str) -> dict[str, Tenant]:
    """Keys of the default tenant, from comma-separated hashes. Raises InvalidConfig."""
    tenants: dict[str, Tenant] = {}
    for text in filter(None, (part.strip() for part in hashes.split(","))):
        if _HASH.fullmatch(text) is None:
            raise InvalidConfig(
                "[router] api_key_hashes must have SHA-256 hashes of 64 hex digits, got one of "
                f"{len(text)} characters"
            )
        tenants[text] = Tenant(name=DEFAULT_NAME, is_operator=True)
    return tenants


def keys_in(text: str, origin: str) -> dict[str, Tenant]:
    """The keys in a file's text. Raises InvalidConfig, which quotes no key."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The error's own text may quote the line.
        raise InvalidConfig(f"{origin} is not valid TOML at {_place_of(error)}") from None
    named = tables.get("tenants")
    if set(tables) != {"tenants"} or not isinstance(named, dict):
        raise InvalidConfig(f"{origin}: {_FILE_FORM}")
    tenants: dict[str, Tenant] = {}
    for name, table in named.items():
        for known, tenant in _keys_of(name, table, origin):
            if tenants.get(known, tenant) != tenant:
                raise InvalidConfig(
                    f"{origin}: a key of tenant {name!r} is also one of {tenants[known].name!r}: "
                    "give each tenant its own"
                )
            tenants[known] = tenant
    return tenants


def _keys_of(name: str, table: Any, origin: str) -> Iterable[tuple[str, Tenant]]:
    if not isinstance(table, dict) or not isinstance(table.get("keys"), list):
        # Names and values may be keys, in the wrong place.
        raise InvalidConfig(f"{origin}: a tenant has no list of keys: {_FILE_FORM}")
    where = f"tenants.{name}"
    read = section({where: table}, where, _TenantTable)
    try:
        limits = Limits(max_turns=read.max_turns, tokens_per_minute=read.tokens_per_minute)
        tenant = Tenant(name=name, limits=limits, is_operator=read.operator)
    except ValueError as error:
        raise InvalidConfig(f"{origin}: [{where}] {error}") from None
    return [(_hash_of(key, f"{origin}: [{where}] keys"), tenant) for key in read.keys]


def _hash_of(key: object, where: str) -> str:
    if isinstance(key, str):
        if key.startswith(_HASHED) and _HASH.fullmatch(hashed := key.removeprefix(_HASHED)):
            return hashed
        if is_api_key(key) and not key.startswith(_HASHED):
            return key_hash(key)
    raise InvalidConfig(
        f'{where} must have texts: keys of printable ASCII without spaces and commas, or "sha256:" '
        "and 64 hex digits, got something else"
    )


def _place_of(error: tomllib.TOMLDecodeError) -> str:
    return found[0] if (found := re.search(r"line \d+, column \d+", str(error))) else "its end"


class Keyring:
    """The keys in effect. Without keys, all clients are the one open tenant."""

    def __init__(self, config: RouterConfig) -> None:
        """Raises InvalidConfig."""
        self._shares = config.share_prefixes_across_tenants
        self._given = given_keys(config.api_key_hashes)
        self._path = Path(config.api_keys_file) if config.api_keys_file else None
        self.is_open = not config.has_keys
        self._seen: object = None
        self._tenants: Tenants = self._with(self._read())

    def tenant_of(self, key: str) -> Tenant:
        """Raises Unauthenticated."""
        if self.is_open:
            return OPEN
        if not key:
            raise Unauthenticated(
                "expected an API key (authorization: Bearer KEY), got none, several, or "
                "one of another form: send one"
            )
        tenant = tenant_of(self._tenants, key)
        if tenant is None:
            raise Unauthenticated("this API key is not known here: check it, or ask for one")
        return tenant

    def reread(self) -> None:
        """Reads the file again if it has changed. If that fails, the old keys stay in effect."""
        try:
            if self._path is not None and self._state() != self._seen:
                self._tenants = self._with(self._read())
                logger.info("API keys read again", extra={"keys": len(self._tenants)})
        except InvalidConfig as error:
            logger.error("the old API keys stay in effect", extra={"error": str(error)})

    def _read(self) -> dict[str, Tenant]:
        if self._path is None:
            return {}
        self._seen = self._state()
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidConfig(f"cannot read the API keys in {self._path}: {reason}") from None
        if self._path.stat().st_mode & stat.S_IROTH:
            logger.warning(
                "every user may read the API keys: chmod o-r", extra={"file": self._path}
            )
        return keys_in(text, str(self._path))

    def _state(self) -> object:
        """Differs if the file has changed."""
        assert self._path is not None
        try:
            now = os.stat(self._path)
        except OSError as error:
            return error.errno
        return now.st_mtime_ns, now.st_size, now.st_ino

    def _with(self, of_file: Mapping[str, Tenant]) -> Tenants:
        # Keys in the file name their tenant, so the file wins.
        tenants = {**self._given, **of_file}
        if self._shares:
            return {known: replace(one, shares_prefixes=True) for known, one in tenants.items()}
        return tenants
