"""`segue serve` on an existing Ray cluster, with a token and two CPUs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from segue.wire.server import free_port
from tests.cluster.serving import PATIENCE_S, is_whole, serving, wait_for, wait_until


@dataclass(frozen=True, slots=True)
class Head:
    """A head node with one label and one custom resource."""

    address: str
    environment: dict[str, str]
    """The token that nodes and drivers need to join."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    token, shown = folder / "token", folder / "shown.txt"
    token.write_text("0123456789abcdef" * 4)
    port = free_port("127.0.0.1", 0)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [
        str(Path(sys.executable).parent / "ray"),
        *("start", "--head", "--block", "--include-dashboard=false", f"--port={port}"),
        *("--num-cpus=2", "--object-store-memory=104857600", "--labels=zone=a"),
        '--resources={"rack1": 1}',
    ]
    with shown.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
    try:
        wait_for(shown.read_text, "Ray runtime started", lambda: process.poll() is None)
        yield Head(f"127.0.0.1:{port}", environment)
    finally:
        # `ray start --block` drains for half a minute on SIGTERM; its process group is ours.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def refused(folder: Path, head: Head, *arguments: str, token: str = "") -> str:
    """Its output before it ended with an error, soon and in one line."""
    environment = head.environment
    if token:
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    started_at = time.monotonic()
    with serving(
        folder, "--ray-address", head.address, *arguments, environment=environment
    ) as ours:
        status = ours.process.wait(PATIENCE_S)
    elapsed_s = time.monotonic() - started_at
    text = ours.text()
    assert status == 1, text
    assert elapsed_s < 30.0, text
    assert "Traceback" not in text
    *progress, error = text.splitlines()
    assert all(re.match(r" *[\d.]+ s ", line) for line in progress), text
    return error


@pytest.mark.slow
def test_a_wrong_token_is_reported(head: Head, tmp_path: Path) -> None:
    error = refused(tmp_path, head, token="f" * 64)

    assert error.startswith(f"error Unavailable: cannot join Ray at {head.address}: the token is")


@pytest.mark.slow
def test_missing_resources_are_reported_at_once(head: Head, tmp_path: Path) -> None:
    settings = tmp_path / "more.toml"
    settings.write_text("[cluster]\ncpus_per_worker = 8\n")

    error = refused(tmp_path, head, "--config", str(settings))

    assert "it needs 16 CPU, but the Ray cluster has 2 CPU on 1 node" in error


@pytest.mark.slow
def test_workers_are_placed_by_label_and_resource_and_reachable_where_they_announce(
    head: Head, tmp_path: Path
) -> None:
    port, metrics_port = free_port("127.0.0.3", 0), free_port("127.0.0.3", 0)
    settings = tmp_path / "more.toml"
    settings.write_text(
        '[cluster]\nmodel = "demo"\ncpus_per_worker = 0.5\n'
        'prefill_on = "label:zone=a"\ndecode_on = "resource:rack1=0.5"\n'
        'worker_host = "0.0.0.0"\nworker_announce = "127.0.0.3"\n'
        f"decode_port = {port}\ndecode_metrics_port = {metrics_port}\n"
        '[router]\nhost = "0.0.0.0"\nannounce = "127.0.0.2"\n'
        "[engine]\nnum_threads = 1\ncache_bytes = 67108864\nmax_running = 8\n"
    )
    with serving(
        tmp_path,
        "--ray-address",
        head.address,
        "--config",
        str(settings),
        environment=head.environment,
    ) as ours:
        address = ours.address()
        status = wait_until(address, is_whole)
        assert ours.end() == 0

    assert address.startswith("127.0.0.2:")
    by_id = {str(w.worker_id): w for w in status.workers}
    assert by_id["decode-0"].address == f"127.0.0.3:{port}"
    assert by_id["decode-0"].metrics_address == f"127.0.0.3:{metrics_port}"
    assert by_id["prefill-0"].address.startswith("127.0.0.3:")
    assert status.router.metrics_address.startswith("127.0.0.2:")
    assert "Traceback" not in ours.text()
