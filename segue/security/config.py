"""The settings of TLS and of the cluster's secret: section `[security]`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from segue.api.errors import InvalidConfig
from segue.security.secret import ENVIRONMENT, ClusterSecret
from segue.security.tls import Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """Certificates are PEM files, which are read again when they change."""

    certificate: str = ""
    """This process's certificate. With it, every gRPC, metrics and HTTP port uses TLS, and the
    processes of the cluster authenticate each other by their certificates.
    """
    key: str = ""
    """The private key of `certificate`."""
    ca: str = ""
    """The authority that signs the certificates of the cluster's processes."""
    client_ca: str = ""
    """The authority of clients' certificates, if different. The router, metrics ports and the
    gateway trust both; workers trust only `ca`.
    """
    server_name: str = ""
    """The name in the certificates of the cluster's processes, if they do not carry the addresses
    that others dial.
    """
    client_certificates: bool = True
    """With TLS, the router and `/metrics` require a certificate of clients too. If false, the
    router's port requires none at all, and workers join with the cluster's secret alone.
    """
    http_client_certificates: bool = False
    """With TLS, clients of the gateway need a certificate, which few HTTP clients can have."""
    cluster_secret_file: str = ""
    """A file with the secret of the cluster. If empty, it is the environment's
    SEGUE_CLUSTER_SECRET, or a random one that `segue serve` makes.
    """

    def __post_init__(self) -> None:
        given = [name for name in ("certificate", "key", "ca") if getattr(self, name)]
        if given and len(given) < 3:
            raise ValueError(
                f"TLS needs certificate, key and ca, got only {' and '.join(given)}: set all three"
            )
        for name in ("client_ca", "server_name"):
            if getattr(self, name) and not given:
                raise ValueError(f"{name} needs certificate, key and ca: set them too")

    @property
    def has_tls(self) -> bool:
        return bool(self.certificate)

    def security(self, environment: Mapping[str, str] = os.environ) -> Security:
        """Reads the secret and checks the files. Raises InvalidConfig."""
        secret = None
        if self.cluster_secret_file:
            secret = ClusterSecret.of_file(Path(self.cluster_secret_file))
        elif text := environment.get(ENVIRONMENT, ""):
            secret = ClusterSecret.of_environment(text)
        if not self.has_tls:
            return Security(secret=secret)
        tls = Tls(
            ca=self.ca, certificate=self.certificate, key=self.key, server_name=self.server_name
        )
        tls.read()
        if self.client_ca:
            Tls(ca=self.client_ca).read()
        return Security(
            secret=secret,
            tls=tls,
            client_ca=self.client_ca,
            client_certificates=self.client_certificates,
            http_client_certificates=self.http_client_certificates,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """A process's credentials, and the credentials that it requires of others."""

    secret: ClusterSecret | None = None
    tls: Tls | None = None
    client_ca: str = ""
    client_certificates: bool = True
    http_client_certificates: bool = False

    def with_secret(self) -> Security:
        """The same with a random secret if it has none."""
        return self if self.secret else replace(self, secret=ClusterSecret.random())

    def require_for(self, host: str) -> None:
        """Raises InvalidConfig if any process that reaches `host` could command this one."""
        if self.secret is not None:
            return
        if self.tls is not None and not self.client_certificates:
            raise InvalidConfig(
                "[security] client_certificates = false needs a cluster secret, since workers then "
                f"have no other credential: set cluster_secret_file or {ENVIRONMENT}"
            )
        if not is_loopback(host):
            raise InvalidConfig(
                f"listening on {host} needs a cluster secret: without one, every process that "
                "reaches this port could join the cluster or command it. Give all processes "
                f"the same one with --cluster-secret-file or {ENVIRONMENT}, or listen on 127.0.0.1"
            )


OPEN = Security()
"""Neither TLS nor a secret: for clients, and for processes on loopback."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
