"""Certificates, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.test_ca import write_all
from segue.security.config import Security, SecurityConfig
from segue.security.tls import Tls

# 127.0.0.2 is loopback too: proxies listen there.
HOSTS = ("localhost", "127.0.0.1", "127.0.0.2")
SECRET = "the-secret-of-this-cluster"

TlsOf = Callable[[str], Tls]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `scripts/test_ca.py` writes it."""
    folder = tmp_path_factory.mktemp("certificates")
    write_all(folder, HOSTS)
    return folder


@pytest.fixture(scope="session")
def tls_of(certificates: Path) -> TlsOf:
    """A client that trusts the authority and shows the certificate of that name; none if empty."""

    def make(name: str) -> Tls:
        shown = {"certificate": f"{name}.pem", "key": f"{name}.key"} if name else {}
        files = {field: str(certificates / file) for field, file in shown.items()}
        return Tls(ca=str(certificates / "ca.pem"), **files)

    return make


def security_in(folder: Path, **settings: object) -> Security:
    """Of a process of the cluster, with TLS and the secret."""
    config = SecurityConfig(
        certificate=str(folder / "server.pem"),
        key=str(folder / "server.key"),
        ca=str(folder / "ca.pem"),
        **settings,  # type: ignore[arg-type]  # the caller's names
    )
    return config.security({"SEGUE_CLUSTER_SECRET": SECRET})
