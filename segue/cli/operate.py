"""`segue status`, `segue explain` and `segue drain`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer

from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import InvalidRequest
from segue.cli.options import AsJson, Connection, connecting, out
from segue.cli.show import status_table
from segue.cli.show_explanation import explanation_tables
from segue.upgrade.plan import require_others
from segue.upgrade.processes import workers_in


@connecting
async def status(to: Connection, as_json: AsJson = False) -> None:
    """Show workers, health and memory. The exit status is 0 only if turns can be served."""
    async with to.client() as client:
        cluster = await client.status()
    if as_json:
        typer.echo(json.dumps(asdict(cluster)))
    else:
        out.print(status_table(cluster, out.width))
    if not cluster.ready:
        raise typer.Exit(1)


@connecting
async def explain(
    session: Annotated[str, typer.Argument(help="Name of the session.")],
    to: Connection,
    as_json: AsJson = False,
) -> None:
    """Explain the placement of the session's last turn, with all candidates."""
    async with to.client() as client:
        explanation = await client.explain(session)
    if as_json:
        typer.echo(json.dumps(asdict(explanation)))
    else:
        out.print(explanation_tables(explanation, out.width))


@connecting
async def drain(
    worker: Annotated[str, typer.Argument(help="Name of the worker, such as decode-0.")] = "",
    *,
    to: Connection,
    move_sessions: Annotated[
        bool,
        typer.Option(
            "--move-sessions/--no-move-sessions",
            help="Whether other decode workers take its sessions over.",
        ),
    ] = True,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for turns to end and sessions to move; default: its drain_s."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Instead of a name: all workers at this address, such as a pod's.")
    ] = "",
    may_interrupt: Annotated[
        bool,
        typer.Option(
            "--may-interrupt",
            help="Drain the last ready worker of a role too: new turns are refused until it is "
            "back.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a worker out of service without losing a turn; `segue serve` then starts it again."""
    if bool(worker) == bool(host):
        raise InvalidRequest("name one worker, or give --host ADDRESS; `segue status` shows both")
    async with to.client() as client:
        cluster = await client.status()
        names = [worker] if worker else workers_at(host, cluster)
        if not may_interrupt:
            ready = {one.member for one in workers_in([cluster]) if one.is_ready}
            require_others([one for one in ready if one.name in names], ready)
        drains = (
            client.drain_worker(name, move_sessions=move_sessions, timeout_s=timeout)
            for name in names
        )
        reports = await asyncio.gather(*drains)
    for report in reports:
        typer.echo(report_json(report) if as_json else f"drained: {report}")


def workers_at(host: str, cluster: ClusterStatus) -> list[str]:
    """The workers that listen at the host, without lost and draining ones."""
    return [
        worker.worker_id
        for worker in cluster.workers
        if worker.address.rpartition(":")[0].strip("[]") == host.strip("[]")
        and worker.health is WorkerHealth.READY
    ]


def report_json(report: DrainReport) -> str:
    left = {reason.name.lower(): count for reason, count in report.left.items()}
    return json.dumps({**asdict(report), "left": left})
