"""The options of the commands that talk to a router with TLS."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from segue.security.tls import ENVIRONMENT, Tls

TlsCa = Annotated[
    str,
    typer.Option(
        "--tls-ca", envvar=ENVIRONMENT["ca"], help="PEM file of the router's authority: use TLS."
    ),
]
TlsCert = Annotated[
    str,
    typer.Option(
        "--tls-cert",
        envvar=ENVIRONMENT["certificate"],
        help="PEM file of a certificate for the router.",
    ),
]
TlsKey = Annotated[
    str, typer.Option("--tls-key", envvar=ENVIRONMENT["key"], help="PEM file of its private key.")
]


def tls_of(ca: str, certificate: str, key: str) -> Tls | None:
    """None for a router without TLS. Raises InvalidConfig."""
    return Tls.of(os.environ, ca=ca, certificate=certificate, key=key)
