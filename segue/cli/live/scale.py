"""`segue scale` and `segue reload`: requests to the launcher of a running cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from segue.api.cluster.fleet import FleetStatus, ScaleOrder, WorkerCounts
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import DeadlineExceeded, InvalidRequest, Unavailable
from segue.api.types import Role
from segue.cli.options import Connection, connecting, out, print_timed
from segue.sdk.client import Client

_LOOK_EVERY_S = 0.5
# A router that restarts is back within this time.
_AWAY_S = 30.0
# The launcher informs its routers one after another.
_HEARD_AFTER_S = 5.0


@connecting
async def scale(
    prefill: Annotated[int | None, typer.Option(help="Number of prefill workers.")] = None,
    decode: Annotated[int | None, typer.Option(help="Number of decode workers.")] = None,
    *,
    to: Connection,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait until the workers are ready or have left.")
    ] = 600.0,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Whether to wait, and to show what happens.")
    ] = True,
) -> None:
    """Change the number of workers while the cluster serves. No turn is lost."""
    order = ScaleOrder(prefill=prefill, decode=decode)
    async with to.client() as client:
        before = (await client.status()).fleet.counts
        await client.scale_workers(prefill=order.prefill, decode=order.decode)
        wanted = order.counts(before)
        print_timed(f"scaling to {wanted}; Ctrl-C ends this command, not the change")
        if wait:
            await follow(client, wanted, timeout_s=timeout)


async def follow(client: Client, wanted: WorkerCounts, *, timeout_s: float) -> None:
    """Returns when the cluster has this number of workers and all are ready. Raises InvalidRequest
    if another order replaces this one, DeadlineExceeded, and Unavailable if no router answers for
    `_AWAY_S`."""
    started_at = seen_at = time.monotonic()
    shown: tuple[str, ...] = ()
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
                print_timed(f"scaled to {wanted} after {seen_at - started_at:.1f} s")
                return
            shown = _print_news(status.fleet, shown)
        if time.monotonic() - started_at > timeout_s:
            raise DeadlineExceeded(
                f"the cluster does not have {wanted} workers after {timeout_s:g} s, and the "
                f"launcher continues: {'; '.join(shown) or 'see `segue status`'}"
            )
        await asyncio.sleep(_LOOK_EVERY_S)


def is_reached(status: ClusterStatus, wanted: WorkerCounts) -> bool:
    ready = [worker.role for worker in status.workers if worker.health is WorkerHealth.READY]
    return (
        status.fleet.has_launcher
        and not status.fleet.changes
        and all(ready.count(role) == wanted.of(role) for role in Role)
    )


def _print_news(fleet: FleetStatus, shown: Sequence[str]) -> tuple[str, ...]:
    """Prints the new changes. Compares only their starts: the times and counts in them always
    differ."""
    known = {line.partition(",")[0] for line in shown}
    for line in fleet.changes:
        if line.partition(",")[0] not in known:
            print_timed(line)
    return fleet.changes


@connecting
async def reload(to: Connection) -> None:
    """Make `segue serve` read its configuration file again."""
    async with to.client() as client:
        reloaded = await client.reload_config()
    for line in reloaded.applied:
        out.print(f"applied: {line}", soft_wrap=True, markup=False)
    for line in reloaded.for_new_workers:
        out.print(f"for new workers: {line}", soft_wrap=True, markup=False)
    if not (reloaded.applied or reloaded.for_new_workers):
        out.print("nothing has changed", markup=False)
