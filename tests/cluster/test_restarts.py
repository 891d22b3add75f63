"""Processes of `segue serve` that cannot restart at once, or die while they start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from segue.api.cluster.status import ClusterStatus
from segue.api.types import TextInput
from segue.sdk.client import Client
from tests.cluster.serving import PATIENCE_S, is_whole, serving, wait_for, wait_until

RETRY = r"ERROR {} .*did not start; retrying error=(.*) retry_in_s=([\d.]+)"


def bound(address: str) -> socket.socket:
    """A socket on the port that a process has just released."""
    host, port = address.split(":")
    deadline_at = time.monotonic() + PATIENCE_S
    while True:
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, int(port)))
            taken.listen()
        except OSError:
            taken.close()
            assert time.monotonic() < deadline_at, "the port did not become free"
            time.sleep(0.01)
        else:
            return taken


@pytest.mark.slow
def test_a_restart_that_fails_is_retried_until_it_works(demo: Path, tmp_path: Path) -> None:
    model, away = tmp_path / "model", tmp_path / "away"
    shutil.copytree(demo, model)
    with serving(tmp_path, str(model)) as cluster:
        address = cluster.address()
        first_pid = cluster.pid("decode-0")

        # The model's folder is missing while the worker restarts.
        model.rename(away)
        os.kill(first_pid, signal.SIGKILL)
        error, delay = wait_for(lambda: cluster.log("decode-0"), RETRY.format("decode-0")).groups()
        assert error.startswith(f"InvalidCheckpoint: no such model folder: {model}")
        assert float(delay) > 0
        cluster.wait_for(rf"decode-0 has ended \(pid {first_pid}\); Ray starts it again")
        # The third failure is later than the launcher's next look at the process.
        wait_for(lambda: cluster.log("decode-0"), r"did not start; retrying .*retry_in_s=2")
        assert "again (pid" not in cluster.text()
        away.rename(model)

        def has_new_life(status: ClusterStatus) -> bool:
            pids = {w.worker_id: w.pid for w in status.workers}
            return is_whole(status) and pids["decode-0"] != first_pid

        wait_until(address, has_new_life)
        cluster.wait_for(r"decode-0 serves again \(pid \d+\)")

        # The router's port is taken while the router restarts.
        os.kill(cluster.pid("router"), signal.SIGKILL)
        with bound(address):
            error, _ = wait_for(lambda: cluster.log("router"), RETRY.format("router")).groups()
            assert error.startswith(f"InvalidConfig: cannot listen on {address}")
        status = wait_until(address, lambda status: is_whole(status) and len(status.workers) == 2)
        assert {str(w.worker_id) for w in status.workers} == {"prefill-0", "decode-0"}
        assert cluster.end() == 0


@pytest.mark.slow
def test_of_two_routers_one_may_die_and_returns(tmp_path: Path) -> None:
    with serving(tmp_path, "--routers", "2") as cluster:
        both = cluster.address()
        first, second = both.split(",")
        for address in (first, second, both):
            wait_until(address, lambda status: is_whole(status) and len(status.workers) == 2)

        pid = cluster.pid("router-1")
        os.kill(pid, signal.SIGKILL)
        wait_until(first, is_whole)
        cluster.wait_for(rf"router-1 has ended \(pid {pid}\); Ray starts it again")
        cluster.wait_for(r"router-1 serves again \(pid \d+\)")
        wait_until(second, lambda status: is_whole(status) and len(status.workers) == 2)
        assert cluster.num_lives("router-1") == 2
        assert cluster.num_lives("router") == 1
        assert cluster.end() == 0
    assert "Traceback" not in cluster.text()


@pytest.mark.slow
def test_a_worker_that_dies_while_it_starts_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path) as cluster:
        # Ray handles a death before the worker is asked for its address, and does not report it.
        # It shows the running call in the process's title.
        cluster.wait_for("loading the model in prefill-0")
        pid = cluster.pid("prefill-0")
        wait_for(Path(f"/proc/{pid}/cmdline").read_text, r"\.address")
        os.kill(pid, signal.SIGKILL)

        cluster.address()
        assert "prefill-0 died during its start; restarting it" in cluster.text()
        assert cluster.num_lives("prefill-0") == 2
        assert cluster.end() == 0
    assert "Traceback" not in cluster.text()


@pytest.mark.parametrize(
    ("stage", "number", "status"),
    [
        ("loading the model", signal.SIGINT, 130),
        pytest.param("starting Ray", signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param("starting Ray", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("loading the model", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_during_the_start_ends_it_with_the_signals_status_and_leaves_nothing(
    stage: str, number: int, status: int, tmp_path: Path
) -> None:
    mark = f"{tmp_path}-{number}"
    with serving(tmp_path, environment={"SEGUE_TEST_MARK": mark}) as cluster:
        cluster.wait_for(stage)
        assert cluster.end(number) == status

    assert cluster.text().splitlines()[-1].endswith("stopped before it was ready")
    assert "Traceback" not in cluster.text()
    wait_until_gone(mark)


@pytest.mark.slow
def test_if_rays_raylet_dies_the_cluster_ends_with_an_error(tmp_path: Path) -> None:
    """It takes all processes along."""
    mark = f"{tmp_path}-raylet"
    with serving(tmp_path, environment={"SEGUE_TEST_MARK": mark}) as cluster:
        cluster.address()
        os.kill(part_of_ray("raylet", mark), signal.SIGKILL)

        assert cluster.process.wait(15) == 1

    assert "error Unavailable: Ray's raylet ended" in cluster.text()
    wait_until_gone(mark)


@pytest.mark.slow
def test_without_rays_gcs_a_cluster_serves_until_a_role_is_gone(tmp_path: Path) -> None:
    mark = f"{tmp_path}-gcs"
    sizes = ("--decode", "2", "--no-http")
    with serving(tmp_path, *sizes, environment={"SEGUE_TEST_MARK": mark}) as cluster:
        address = cluster.address()
        os.kill(part_of_ray("gcs_server", mark), signal.SIGKILL)
        cluster.wait_for("Ray's gcs_server ended: running processes continue to serve")
        assert answer_of(address)

        os.kill(cluster.pid("decode-0"), signal.SIGKILL)
        cluster.wait_for(r"decode-0 has ended \(pid \d+\); it is not started again")
        assert answer_of(address)

        os.kill(cluster.pid("decode-1"), signal.SIGKILL)
        assert cluster.process.wait(30) == 1

    assert "error Unavailable: Ray's gcs_server ended, and no decode is left" in cluster.text()
    wait_until_gone(mark)


@pytest.mark.slow
def test_without_rays_gcs_a_cluster_stops_in_order(tmp_path: Path) -> None:
    mark = f"{tmp_path}-stop"
    with serving(tmp_path, environment={"SEGUE_TEST_MARK": mark}) as cluster:
        cluster.address()
        os.kill(part_of_ray("gcs_server", mark), signal.SIGKILL)
        cluster.wait_for("Ray's gcs_server ended")

        assert cluster.end() == 0

    assert "draining: no turn is running" in cluster.text()
    wait_until_gone(mark)


def answer_of(address: str) -> str:
    async def ask() -> str:
        async with Client(address) as client:
            return (await client.generate(TextInput("1, 2, 3,"))).text

    return asyncio.run(ask())


def part_of_ray(part: str, mark: str) -> int:
    (pid,) = (pid for pid, line in marked(mark).items() if line.split()[0].endswith(f"/{part}"))
    return pid


def wait_until_gone(mark: str) -> None:
    deadline_at = time.monotonic() + PATIENCE_S
    while left := marked(mark):
        assert time.monotonic() < deadline_at, f"still there: {left}"
        time.sleep(0.1)


def marked(mark: str) -> dict[int, str]:
    """Command lines of processes that inherited our environment variable, by process id."""
    found = {}
    for process in Path("/proc").iterdir():
        # Processes start and end during the loop.
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and mark.encode() in (process / "environ").read_bytes():
                command = (process / "cmdline").read_text().replace("\0", " ")
                if command:
                    found[int(process.name)] = command
    return found
