"""The secret that all processes of a cluster share. Only a process that has it may join the cluster
or call a worker."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from segue.api.errors import InvalidConfig

logger = logging.getLogger(__name__)

ENVIRONMENT = "SEGUE_CLUSTER_SECRET"
METADATA = "segue-cluster-secret"
"""The gRPC metadata that carries it."""

_FORM = re.compile(r"[!-~]{16,256}")


@dataclass(frozen=True, slots=True)
class ClusterSecret:
    """Never printed: neither its `repr` nor an error shows the text."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if _FORM.fullmatch(self.text) is None:
            raise ValueError(
                "must have 16 to 256 printable ASCII characters without spaces, got "
                f"{len(self.text)} characters"
            )

    @classmethod
    def random(cls) -> ClusterSecret:
        return cls(secrets.token_urlsafe(32))

    @classmethod
    def of_environment(cls, text: str) -> ClusterSecret:
        """Raises InvalidConfig."""
        return _checked(text.strip(), f"the cluster secret in {ENVIRONMENT}")

    @classmethod
    def of_file(cls, path: Path) -> ClusterSecret:
        """The file's only line. Raises InvalidConfig."""
        try:
            text = path.read_text("utf-8")
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidConfig(f"cannot read the cluster secret in {path}: {reason}") from None
        if mode & stat.S_IROTH:
            logger.warning("every user can read the cluster secret: chmod o-r %s", path)
        return _checked(text.strip(), f"the cluster secret in {path}")

    def matches(self, given: object) -> bool:
        """Takes the same time for all wrong values of one length."""
        octets = given.encode() if isinstance(given, str) else b""
        return hmac.compare_digest(octets, self.text.encode())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call."""
        return ((METADATA, self.text),)


def _checked(text: str, what: str) -> ClusterSecret:
    try:
        return ClusterSecret(text)
    except ValueError as error:
        raise InvalidConfig(f"{what} {error}: make one with `openssl rand -hex 24`") from None
