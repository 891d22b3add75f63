"""The command line of the two worker processes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segue.api.errors import InvalidRequest
from segue.api.types import Role
from segue.config import read_file, section
from segue.process.telemetry import setup_logging
from segue.security.options import add_secret_option, security_of
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import RunningWorker


def run_worker(
    role: Role,
    running: Callable[..., contextlib.AbstractAsyncContextManager[RunningWorker]],
    arguments: Sequence[str] | None = None,
    **sections: type,
) -> None:
    """`python -m prefill_worker` and `python -m decode_worker`: runs until SIGTERM or SIGINT.

    `running` gets the process's options, and by name the `sections` of the configuration file.
    """
    program = f"python -m {role}_worker"
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--id", required=True, help=f"unique in the cluster, such as {role}-0")
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--router", required=True, help="host:port; several: comma-separated")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--announce", default="", help="address that others use, if different")
    parser.add_argument("--port", type=int, default=0, help="gRPC port; 0: any")
    parser.add_argument("--metrics-port", type=int, default=0, help="0: any")
    parser.add_argument("--config", type=Path, help="TOML file")
    add_secret_option(parser)
    options = parser.parse_args(arguments)
    setup_logging(options.id)
    read = read_file(options.config)
    security = security_of(read, options)
    try:
        worker_options = WorkerOptions(
            worker_id=options.id,
            model=options.model,
            router_address=options.router,
            host=options.host,
            announce=options.announce,
            port=options.port,
            metrics_port=options.metrics_port,
            security=security,
        )
    except InvalidRequest as error:
        parser.error(f"--router: {error}")
    values: dict[str, Any] = {name: section(read, name, kind) for name, kind in sections.items()}
    asyncio.run(_until_signal(running(worker_options, **values)))


async def _until_signal(running: contextlib.AbstractAsyncContextManager[RunningWorker]) -> None:
    """Serves until a signal, or until a drain that the router has ordered has ended. A signal
    starts a drain, and a second one skips the rest of it."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, None)
    async with running as worker:
        draining = worker.draining

        async def drain_on_signals() -> None:
            await signals.get()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(draining.ask(None, move_sessions=True))
                await signals.get()
                tasks.create_task(draining.ask(0.0, move_sessions=False))

        signalled = asyncio.ensure_future(drain_on_signals())
        await draining.ended.wait()
        signalled.cancel()
        await asyncio.gather(signalled, return_exceptions=True)
