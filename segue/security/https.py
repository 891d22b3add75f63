"""TLS for this process's HTTP servers."""

from __future__ import annotations

import ssl

from segue.security.config import Security
from segue.security.tls import FileBacked, Tls


def https_context(security: Security, asks: ssl.VerifyMode) -> ssl.SSLContext | None:
    """A context whose new connections use the files' current contents; None without TLS.

    `asks`: whether clients may or must present a certificate of the cluster's or the clients'
    authority. Raises InvalidConfig.
    """
    tls, client_ca = security.tls, security.client_ca
    if tls is None:
        return None
    paths = (*tls.paths, *filter(None, (client_ca,)))
    contexts = FileBacked(paths, lambda: _context(tls, client_ca, asks))
    listening = contexts.get()

    def choose(connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        connection.context = contexts.get()

    # OpenSSL calls it at the start of each handshake, even if the client names no server.
    listening.sni_callback = choose
    return listening


def _context(tls: Tls, client_ca: str, asks: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = asks
    tls.load_into(context)
    if client_ca:
        Tls(ca=client_ca).load_into(context)
    return context
