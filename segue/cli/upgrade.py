"""`segue upgrade`: restarts every process of a running cluster, one after another."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from segue.api.errors import InvalidRequest
from segue.cli.options import Connection, connecting, print_timed
from segue.upgrade.gateway import GatewayCalls
from segue.upgrade.processes import ServedProcesses
from segue.upgrade.run import Upgrade


@connecting
async def upgrade(
    *,
    to: Connection,
    gateway: Annotated[
        list[str] | None,
        typer.Option(help="A gateway to restart too, as host:port or URL; may repeat."),
    ] = None,
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
        typer.Option(help="Continue an upgrade that started then: newer processes are skipped."),
    ] = None,
) -> None:
    """Restart all workers, all routers and the named gateways, one by one. No turn is lost."""
    now = datetime.now(UTC)
    started = now if since is None else _time_of(since, now)
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(to.client())
        routers = [
            await stack.enter_async_context(replace(to, target=target).client())
            for target in cluster.target.split(",")
        ]
        processes = ServedProcesses(
            cluster,
            routers,
            [GatewayCalls(one, api_key=to.api_key or "", tls=to.tls) for one in gateway or ()],
            drain_s=timeout,
        )
        running = Upgrade(
            processes,
            print_timed,
            on_start=lambda: print_timed(start_line(started)),
            ready_timeout_s=ready_timeout,
            ran_s=(now - started).total_seconds(),
            may_interrupt=may_interrupt,
        )
        restarted = await running.run()
    print_timed(f"upgraded: {len(restarted)} processes restarted")


def start_line(started: datetime) -> str:
    return f"started; if interrupted, continue with --since {_as_text(started)}"


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
