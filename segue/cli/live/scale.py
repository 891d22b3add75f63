"""`segue scale` and `segue reload`: what the launcher of a running cluster is asked for."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from segue.api.api_key import one_key
from segue.api.cluster.fleet import FleetStatus, ScaleOrder, WorkerCounts
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import DeadlineExceeded, InvalidRequest, Unavailable
from segue.api.types import Role
from segue.cli.options import ApiKey, Target, TlsCa, TlsCert, TlsKey, out, tls_of
from segue.sdk.client import DEFAULT_TARGET, Client

_LOOK_EVERY_S = 0.5
# A router that restarts meanwhile is back by then.
_AWAY_S = 30.0
# The launcher tells its routers one after another.
_HEARD_AFTER_S = 5.0


def scale(
    prefill: Annotated[
        int | None, typer.Option(help="Prefill workers that there are to be.")
    ] = None,
    decode: Annotated[int | None, typer.Option(help="Decode workers that there are to be.")] = None,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait until the workers are ready or have left.")
    ] = 600.0,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Whether to wait, and to show what happens.")
    ] = True,
) -> None:
    """Change the number of workers while the cluster serves. No turn is lost."""
    order = ScaleOrder(prefill=prefill, decode=decode)
    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def change() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            before = (await client.status()).fleet.counts
            await client.scale_workers(prefill=order.prefill, decode=order.decode)
            wanted = order.counts(before)
            _say(f"scaling to {wanted}; Ctrl-C ends this command, not the change")
            if wait:
                await follow(client, wanted, timeout_s=timeout)

    asyncio.run(change())


async def follow(client: Client, wanted: WorkerCounts, *, timeout_s: float) -> None:
    """Returns when there are so many workers and all are ready. Raises InvalidRequest if another
    order replaces this one, DeadlineExceeded, and Unavailable if no router answers for long."""
    started_at = seen_at = time.monotonic()
    said: list[str] = []
    while True:
        try:
            status = await client.status()
        except Unavailable:
            if time.monotonic() - seen_at > _AWAY_S:
                raise
        else:
            seen_at = time.monotonic()
            has_heard = status.fleet.has_launcher and seen_at - started_at > _HEARD_AFTER_S
            if has_heard and status.fleet.counts != wanted:
                raise InvalidRequest(
                    f"expected {wanted} workers, but the launcher now keeps {status.fleet.counts}: "
                    "another `segue scale`, `segue reload` or the autoscaling has replaced this one"
                )
            if status.fleet.counts == wanted and is_reached(status, wanted):
                _say(f"scaled to {wanted} after {seen_at - started_at:.1f} s")
                return
            said = _tell_news(status.fleet, said)
        if time.monotonic() - started_at > timeout_s:
            raise DeadlineExceeded(
                f"the cluster does not have {wanted} workers after {timeout_s:g} s, and the "
                f"launcher goes on: {'; '.join(said) or 'see `segue status`'}"
            )
        await asyncio.sleep(_LOOK_EVERY_S)


def is_reached(status: ClusterStatus, wanted: WorkerCounts) -> bool:
    ready = [worker.role for worker in status.workers if worker.health is WorkerHealth.READY]
    return (
        status.fleet.has_launcher
        and not status.fleet.changes
        and all(ready.count(role) == wanted.of(role) for role in Role)
    )


def _tell_news(fleet: FleetStatus, said: list[str]) -> list[str]:
    """Prints the changes that are new: times and counts in them change all the time."""
    known = {line.partition(",")[0] for line in said}
    for line in fleet.changes:
        if line.partition(",")[0] not in known:
            _say(line)
    return list(fleet.changes)


def reload(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
) -> None:
    """Make `segue serve` read its configuration file again."""
    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def ask() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            reloaded = await client.reload_config()
        for line in reloaded.applied:
            out.print(f"applied: {line}", soft_wrap=True, markup=False)
        for line in reloaded.for_new_workers:
            out.print(f"for new workers: {line}", soft_wrap=True, markup=False)
        if not (reloaded.applied or reloaded.for_new_workers):
            out.print("nothing has changed", markup=False)

    asyncio.run(ask())


def _say(line: str) -> None:
    out.print(f"{datetime.now(UTC):%H:%M:%S} {line}", soft_wrap=True, markup=False)
