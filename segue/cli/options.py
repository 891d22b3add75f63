"""Options that several commands have, and the consoles they print to."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from segue.api.api_key import ENVIRONMENT as API_KEY
from segue.api.api_key import one_key
from segue.sdk.client import DEFAULT_TARGET, Client
from segue.security.tls import ENVIRONMENT, Tls

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How a command reaches the routers."""

    target: str
    api_key: str | None = None
    tls: Tls | None = None

    def client(self) -> Client:
        return Client(self.target, api_key=self.api_key, tls=self.tls)


def _connection(
    target: Annotated[
        str, typer.Option(help="The router, as host:port; of several, a list with commas.")
    ] = DEFAULT_TARGET,
    api_key: Annotated[
        str | None, typer.Option(envvar=API_KEY, help="Needed if the router has API keys.")
    ] = None,
    tls_ca: Annotated[
        str,
        typer.Option(envvar=ENVIRONMENT["ca"], help="PEM file of the router's authority: use TLS."),
    ] = "",
    tls_cert: Annotated[
        str,
        typer.Option(
            envvar=ENVIRONMENT["certificate"], help="PEM file of a certificate for the router."
        ),
    ] = "",
    tls_key: Annotated[
        str, typer.Option(envvar=ENVIRONMENT["key"], help="PEM file of its private key.")
    ] = "",
) -> Connection:
    """Raises InvalidRequest and InvalidConfig."""
    tls = Tls.of(os.environ, ca=tls_ca, certificate=tls_cert, key=tls_key)
    return Connection(target=target, api_key=one_key(api_key), tls=tls)


def connecting(command: Callable[..., Coroutine[Any, Any, None] | None]) -> Callable[..., None]:
    """The command with the options of `_connection` in place of its parameter `to: Connection`. A
    coroutine function runs in an event loop of its own."""
    shared = inspect.signature(_connection, eval_str=True).parameters
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, own in inspect.signature(command, eval_str=True).parameters.items()
        for parameter in (shared.values() if name == "to" else (own,))
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        to = _connection(**{name: given.pop(name) for name in shared})
        work = command(to=to, **given)
        if work is not None:
            asyncio.run(work)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    return run


def print_timed(line: str) -> None:
    """Prints a line of progress, with the time in UTC."""
    out.print(f"{datetime.now(UTC):%H:%M:%S} {line}", soft_wrap=True, markup=False)
