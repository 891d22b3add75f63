"""`segue upgrade`: restarts every process of a running cluster, one after another."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from segue.api.api_key import one_key
from segue.api.errors import InvalidRequest
from segue.cli.operate import report_words
from segue.cli.options import ApiKey, Target, TlsCa, TlsCert, TlsKey, out, tls_of
from segue.sdk.client import DEFAULT_TARGET, Client
from segue.upgrade.gateway import GatewayCalls
from segue.upgrade.processes import ServedProcesses
from segue.upgrade.run import Upgrade


def upgrade(
    target: Target = DEFAULT_TARGET,
    gateway: Annotated[
        list[str] | None,
        typer.Option(help="A gateway to restart too, as host:port or URL; may repeat."),
    ] = None,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for each drain of a worker or router; default: its drain_s."),
    ] = None,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds for each successor to be ready.")
    ] = 600.0,
    may_interrupt: Annotated[
        bool,
        typer.Option(
            "--may-interrupt", help="Restart the only process of a kind too: turns then wait."
        ),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(help="Go on with an upgrade that began then; newer processes are left."),
    ] = None,
) -> None:
    """Restart all workers, all routers and the named gateways, one by one. No turn is lost."""
    tls, key = tls_of(tls_ca, tls_cert, tls_key), one_key(api_key)
    now = datetime.now(UTC)
    began = now if since is None else _time_of(since, now)

    async def restart_all() -> int:
        async with contextlib.AsyncExitStack() as stack:

            async def client_of(target: str) -> Client:
                return await stack.enter_async_context(Client(target, api_key=key, tls=tls))

            cluster = await client_of(target)
            processes = ServedProcesses(
                cluster,
                [await client_of(one) for one in cluster.target.split(",")],
                [GatewayCalls(one, api_key=key or "", tls=tls) for one in gateway or ()],
                in_words=report_words,
                drain_s=timeout,
            )
            running = Upgrade(
                processes,
                _say,
                ready_timeout_s=ready_timeout,
                ran_s=(now - began).total_seconds(),
                may_interrupt=may_interrupt,
            )
            return len(await running.run())

    _say(f"began; if interrupted, go on with --since {_as_text(began)}")
    num_restarted = asyncio.run(restart_all())
    _say(f"upgraded: {num_restarted} processes restarted")


def _say(line: str) -> None:
    out.print(f"{_as_text(datetime.now(UTC))[11:19]} {line}", soft_wrap=True, markup=False)


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_of(text: str, now: datetime) -> datetime:
    """Raises InvalidRequest."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or not timedelta(0) <= now - time <= timedelta(days=30):
        raise InvalidRequest(
            "expected --since as the time that an interrupted upgrade printed, such as "
            f"{_as_text(now)}, got {text!r:.80}"
        )
    return time
