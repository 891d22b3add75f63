"""gRPC credentials from certificate files."""

from __future__ import annotations

import functools
from pathlib import Path

import grpc

from segue.security.config import Security
from segue.security.tls import FileBacked, Tls


def server_credentials(security: Security, *, serves_clients: bool) -> grpc.ServerCredentials:
    """The credentials of a server with TLS. Each new connection uses the files' current contents.

    An internal server requires a certificate of the cluster's authority from every caller. With
    `serves_clients`, it also accepts the clients' authority, and requires a certificate only if
    clients must have one. Raises InvalidConfig.
    """
    tls = security.tls
    assert tls is not None
    client_ca = security.client_ca if serves_clients else ""
    paths = (*tls.paths, *filter(None, (client_ca,)))
    current = FileBacked(paths, lambda: _configuration(tls, client_ca))
    used = current.get()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """gRPC calls this before each handshake, in a thread of its own."""
        nonlocal used
        newest = current.get()
        if newest is used:
            return None
        used = newest
        return newest

    return grpc.dynamic_ssl_server_credentials(
        used,
        changed,  # type: ignore[arg-type]  # None is allowed: nothing has changed
        require_client_authentication=security.client_certificates or not serves_clients,
    )


def _configuration(tls: Tls, client_ca: str) -> grpc.ServerCertificateConfiguration:
    material = tls.read()
    roots = material.ca or b""
    if client_ca:
        Tls(ca=client_ca).read()
        roots += b"\n" + Path(client_ca).read_bytes()
    return grpc.ssl_server_certificate_configuration(
        [(material.key or b"", material.certificate or b"")], root_certificates=roots
    )


@functools.lru_cache(maxsize=64)
def channel_credentials(tls: Tls) -> FileBacked[grpc.ChannelCredentials]:
    """Shared by all channels of the process with these files: a channel that is opened while only
    one of two new files has been written uses the old ones, like the others. Raises InvalidConfig.
    """
    return FileBacked(tls.paths, lambda: _of_channel(tls))


def _of_channel(tls: Tls) -> grpc.ChannelCredentials:
    material = tls.read()
    return grpc.ssl_channel_credentials(
        root_certificates=material.ca,
        private_key=material.key,
        certificate_chain=material.certificate,
    )
