"""`segue status`, `segue explain` and `segue drain`: what an operator asks of a running cluster."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from segue.api.api_key import one_key
from segue.api.cluster.drain import DrainReport
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import InvalidRequest
from segue.cli import show, show_explanation
from segue.cli.options import ApiKey, Target, TlsCa, TlsCert, TlsKey, out, tls_of
from segue.sdk.client import DEFAULT_TARGET, Client


def status(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show workers, health and memory. The exit status is 0 only if turns can be served."""

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def look() -> bool:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            cluster = await client.status()
        if as_json:
            typer.echo(show.status_json(cluster))
        else:
            out.print(show.status_table(cluster, out.width))
        return cluster.ready

    if not asyncio.run(look()):
        sys.exit(1)


def explain(
    session: Annotated[str, typer.Argument(help="Name of the session.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain why the session's last turn ran where it did, and what else was weighed."""

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def look() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            explanation = await client.explain(session)
        if as_json:
            typer.echo(show_explanation.explanation_json(explanation))
        else:
            out.print(show_explanation.explanation_tables(explanation, out.width))

    asyncio.run(look())


def drain(
    worker: Annotated[str, typer.Argument(help="Name of the worker, such as decode-0.")] = "",
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Take a worker out of service without losing a turn; `segue serve` then starts it anew."""

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def take_out() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            names = [worker] if worker else workers_at(host, await client.status())
            reports = await asyncio.gather(
                *(
                    client.drain_worker(name, move_sessions=move_sessions, timeout_s=timeout)
                    for name in names
                )
            )
        for report in reports:
            typer.echo(report_json(report) if as_json else report_line(report))

    if bool(worker) == bool(host):
        raise InvalidRequest("name one worker, or give --host ADDRESS; `segue status` shows both")
    asyncio.run(take_out())


def workers_at(host: str, cluster: ClusterStatus) -> list[str]:
    """The workers that listen at the host, without those that are lost or drain already."""
    return [
        worker.worker_id
        for worker in cluster.workers
        if worker.address.rpartition(":")[0].strip("[]") == host.strip("[]")
        and worker.health is WorkerHealth.READY
    ]


def report_line(report: DrainReport) -> str:
    return f"drained: {report_words(report)}"


def report_words(report: DrainReport) -> str:
    parts = [f"{show.counted(report.ended_turns, 'turn')} ended"]
    if report.moved_turns:
        parts.append(f"{show.counted(report.moved_turns, 'turn')} went on elsewhere")
    moved = f"{show.counted(report.moved_sessions, 'session')} moved"
    if report.moved_bytes:
        moved += f" ({report.moved_bytes / 1024:.0f} KiB)"
    parts.append(moved)
    if report.left:
        reasons = ", ".join(f"{count} {reason.value}" for reason, count in report.left.items())
        parts.append(
            f"{show.counted(sum(report.left.values()), 'session')} left behind ({reasons})"
        )
    return ", ".join(parts)


def report_json(report: DrainReport) -> str:
    left = {reason.name.lower(): count for reason, count in report.left.items()}
    return json.dumps({**asdict(report), "left": left})
