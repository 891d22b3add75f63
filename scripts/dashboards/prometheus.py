"""A real Prometheus on a port of its own, and queries to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""One series of an answer: its labels and its value, as Prometheus writes them."""


@contextlib.contextmanager
def running_prometheus(
    folder: Path, *jobs: dict[str, object], rule_files: Sequence[Path] = ()
) -> Iterator[str]:
    """Yields its address. `jobs` say where the targets of the job "segue" are. Its files go to
    `folder`. Raises FileNotFoundError if it is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        raise FileNotFoundError(
            "prometheus is not installed; ./check installs it (Debian: prometheus)"
        )
    merged: dict[str, object] = {"job_name": "segue"}
    for job in jobs:
        merged |= job
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [merged],
    }
    configuration = folder / "prometheus.yml"
    configuration.write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [
            program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--enable-feature=exemplar-storage",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def ask(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=5) as reply:
        return json.load(reply)["data"]


def query(address: str, expression: str) -> list[Result]:
    found: list[Result] = ask(address, f"query?query={urllib.parse.quote(expression)}")["result"]
    return found


def exemplars(address: str, metric: str, since: float) -> list[Result]:
    """A metric's exemplars since then (seconds since the epoch): labels, value and timestamp."""
    asked = urllib.parse.urlencode({"query": metric, "start": since, "end": time.time()})
    series = ask(address, f"query_exemplars?{asked}")
    return [exemplar for one in series for exemplar in one["exemplars"]]


async def wait_for(address: str, expression: str, num_results: int) -> list[Result]:
    async with asyncio.timeout(30):
        while True:
            try:
                found = await asyncio.to_thread(query, address, expression)
            except OSError:
                found = []
            if len(found) >= num_results:
                return found
            await asyncio.sleep(0.2)
