"""Credentials with which ranks on several machines authenticate each other: the cluster's own."""

from __future__ import annotations

import ssl
from dataclasses import replace

from segue.parallel.network import Credentials
from segue.security.config import Security
from segue.security.https import https_context


def credentials_of(security: Security) -> Credentials:
    """For a process that has the cluster's secret. With TLS, leader and followers show each other
    their certificates. Raises InvalidConfig."""
    assert security.secret is not None, "`segue serve` makes one if there is none"
    secret = security.secret.text.encode()
    tls = security.tls
    if tls is None:
        return Credentials(secret=secret)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_into(client)
    return Credentials(
        secret=secret,
        # Workers do not trust the authority of clients.
        server=https_context(replace(security, client_ca=""), ssl.CERT_REQUIRED),
        client=client,
        server_name=tls.server_name,
    )
