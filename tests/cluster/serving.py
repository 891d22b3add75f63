"""`segue serve` as a process: its output, its logs and its process ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.errors import SegueError
from segue.sdk.client import Client

SETTINGS = "[engine]\nnum_threads = 1\ncache_bytes = 67108864\nmax_running = 8\n"
# For a machine that other tests share.
PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Serving:
    process: subprocess.Popen[str]
    shown: Path
    """Its output on stdout and stderr."""

    def text(self) -> str:
        return self.shown.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits for the pattern in the output."""
        return wait_for(self.text, pattern, lambda: self.process.poll() is None)

    def address(self) -> str:
        return self.wait_for(r"ready at (\S+) after")[1]

    def logs(self) -> Path:
        return Path(self.wait_for(r"logs are in (\S+): segue")[1])

    def log(self, process: str) -> str:
        """The log of the router or a worker; empty before it starts."""
        path = self.logs() / f"segue-{process}.log"
        return path.read_text() if path.exists() else ""

    def pid(self, process: str) -> int:
        """The process id of its current life."""
        wait_for(lambda: self.log(process), r"process started pid=\d+")
        return int(re.findall(r"process started pid=(\d+)", self.log(process))[-1])

    def num_lives(self, process: str) -> int:
        return self.log(process).count("process started pid=")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


def wait_for(
    text: Callable[[], str], pattern: str, is_alive: Callable[[], bool] = lambda: True
) -> re.Match[str]:
    deadline_at = time.monotonic() + PATIENCE_S
    while True:
        was_alive = is_alive()
        if match := re.search(pattern, text()):
            return match
        assert was_alive, f"it ended without {pattern!r}:\n{text()}"
        assert time.monotonic() < deadline_at, f"no {pattern!r} in:\n{text()}"
        time.sleep(0.05)


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Starts `segue serve` with a small cache. `folder` is for its files."""
    settings = folder / "segue.toml"
    settings.write_text(SETTINGS)
    shown = folder / "shown.txt"
    with shown.open("w") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "segue"),
                "serve",
                *("--port", "0", "--http-port", "0", "--config", str(settings)),
                # If an option is given twice, the last one wins.
                *arguments,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    started = Serving(process, shown)
    try:
        yield started
    finally:
        started.end()


def wait_until(address: str, is_so: Callable[[ClusterStatus], bool]) -> ClusterStatus:
    """The cluster's status once `is_so` holds. An unreachable router is asked again."""

    async def ask() -> ClusterStatus:
        async with Client(address) as client, asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(SegueError):
                    status = await client.status()
                    if is_so(status):
                        return status
                await asyncio.sleep(0.1)

    return asyncio.run(ask())


def is_whole(status: ClusterStatus) -> bool:
    return status.ready and all(w.health is WorkerHealth.READY for w in status.workers)
