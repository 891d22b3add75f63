"""Options that several commands have, and the consoles they print to."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from segue.api.api_key import ENVIRONMENT as API_KEY
from segue.security.tls import ENVIRONMENT, Tls

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Target = Annotated[
    str, typer.Option(help="The router, as host:port; of several, a list with commas.")
]
ApiKey = Annotated[
    str | None, typer.Option(envvar=API_KEY, help="Needed if the router has API keys.")
]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; default: the checkpoint's.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Longest answer; default: the rest of the context.")
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same turn: same tokens.")]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Default: the chat template's own."),
]
TemplateKwargs = Annotated[
    str, typer.Option(help='Further template variables, {"preserve_thinking": true}.')
]
SessionName = Annotated[str | None, typer.Option("--session", help="Name of the session.")]
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
