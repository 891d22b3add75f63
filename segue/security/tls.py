"""Certificate files: read, checked, and read again when they change."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from segue.api.errors import InvalidConfig

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "ca": "SEGUE_TLS_CA",
    "certificate": "SEGUE_TLS_CERT",
    "key": "SEGUE_TLS_KEY",
    "server_name": "SEGUE_TLS_SERVER_NAME",
}
"""A client's environment variables, by field of `Tls`."""

LOOK_EVERY_S = 1.0
"""Shortest time between two checks whether files have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """The contents of `Tls`'s files; None for a file that is not given."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files for encrypted connections. If all are empty, public authorities are trusted, and no
    certificate is presented.
    """

    ca: str = ""
    """The authorities whose certificates are trusted."""
    certificate: str = ""
    """This side's certificate, with the intermediate ones after it."""
    key: str = ""
    """The private key of `certificate`, without a passphrase."""
    server_name: str = ""
    """The name that the server's certificate carries, if it is not the host of its address."""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise InvalidConfig(f"TLS: a {given} is given without its {missing}: give both files")

    @classmethod
    def of(
        cls, environment: Mapping[str, str], *, ca: str = "", certificate: str = "", key: str = ""
    ) -> Tls | None:
        """A client's settings: its options, then its environment; None if neither names a file.
        Raises InvalidConfig.
        """
        given = {"ca": ca, "certificate": certificate, "key": key, "server_name": ""}
        files = {
            field: value or environment.get(ENVIRONMENT[field], "")
            for field, value in given.items()
        }
        return cls(**files) if any(files.values()) else None

    def read(self) -> TlsMaterial:
        """Raises InvalidConfig for a file that is missing or has no such PEM, and for a key of
        another certificate.
        """
        material = TlsMaterial(
            ca=_read(self.ca, "ca"),
            certificate=_read(self.certificate, "certificate"),
            key=_read(self.key, "key"),
        )
        self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        return material

    def load_into(self, context: ssl.SSLContext) -> None:
        """Raises InvalidConfig."""
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
        except OSError as error:
            raise InvalidConfig(f"TLS: no CA certificate in {self.ca} ({_words(error)})") from None
        try:
            if self.certificate:
                # An empty passphrase: by default OpenSSL would ask for one at the terminal.
                context.load_cert_chain(self.certificate, self.key, password=lambda: "")
        except OSError as error:
            raise InvalidConfig(
                f"TLS: {self.key} is not the private key, without a passphrase, of the certificate "
                f"in {self.certificate} ({_words(error)})"
            ) from None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.ca, self.certificate, self.key)))


Made = TypeVar("Made")


class FileBacked(Generic[Made]):
    """A value made from certificate files, and made again when they change.

    If the new files cannot be used, because they are wrong or only one of two has been written, the
    old value stays in use, and the files are read again at the next look.
    """

    def __init__(
        self,
        paths: Sequence[str],
        make: Callable[[], Made],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make` reads the files. Raises its InvalidConfig."""
        self._paths = paths
        self._make = make
        self._clock = clock
        self._state = _state(paths)
        self._look_at = clock() + LOOK_EVERY_S
        self._reported: object = None
        self._made = make()

    def get(self) -> Made:
        """May be called from any thread: two concurrent looks make the same value."""
        now = self._clock()
        if now < self._look_at:
            return self._made
        self._look_at = now + LOOK_EVERY_S
        state = _state(self._paths)
        if state != self._state:
            try:
                self._made = self._make()
            except InvalidConfig as error:
                if state != self._reported:
                    self._reported = state
                    logger.error(
                        "cannot use the new certificates; keeping the old ones",
                        extra={"error": str(error)},
                    )
            else:
                self._state = state
                logger.info("reloaded certificates", extra={"files": " ".join(self._paths)})
        return self._made


def _read(path: str, name: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidConfig(f"TLS: cannot read the {name} in {path}: {error.strerror}") from None


def _state(paths: Sequence[str]) -> object:
    """Differs if a file has changed."""
    return tuple(map(_state_of, paths))


def _state_of(path: str) -> object:
    try:
        now = os.stat(path)
    except OSError as error:
        return error.errno
    return now.st_mtime_ns, now.st_size, now.st_ino


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
