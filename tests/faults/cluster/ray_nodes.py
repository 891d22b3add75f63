"""A Ray cluster of a head and several worker nodes on this machine, in a process of its own.

`python -m tests.faults.cluster.ray_nodes` starts the head, prints its address and the GCS's process
id, and then a raylet's process id for each line that it reads. It stops all of them at the end of
its input.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

_OBJECT_STORE_BYTES = 80 << 20
_REAP_EVERY_S = 0.1
_MAX_STARTS = 4
# Each takes one worker of each role. The head takes the router.
NODE = {"prefill": 1.0, "decode": 1.0}
HEAD = {"head": 1.0}
PINS = """
[cluster]
router_on = "resource:head=0.1"
prefill_on = "resource:prefill=1"
decode_on = "resource:decode=1"
"""
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # As docs/operations.md advises.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
}


def environment() -> dict[str, str]:
    """For Ray's processes, and for those that join it."""
    return {**os.environ, **_ENVIRONMENT}


@dataclass(frozen=True, slots=True)
class RayNodes:
    process: subprocess.Popen[str]
    address: str
    gcs_pid: int
    raylet_pids: list[int]
    """Of the worker nodes."""

    def add(self) -> None:
        """Starts one more node."""
        self.raylet_pids.append(int(_ask(self.process, "add")))


@contextlib.contextmanager
def ray_nodes(num_nodes: int) -> Iterator[RayNodes]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    try:
        address, gcs_pid = _ask(process, "head").split()
        nodes = RayNodes(process, address, int(gcs_pid), [])
        for _ in range(num_nodes):
            nodes.add()
        yield nodes
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30.0)
        process.kill()


def _ask(process: subprocess.Popen[str], words: str) -> str:
    into, out = _pipe(process.stdin), _pipe(process.stdout)
    print(words, file=into, flush=True)
    # Ray prints lines of its own.
    while line := out.readline():
        if line.startswith(f"{words}: "):
            return line.removeprefix(f"{words}: ")
    raise RuntimeError(f"Ray's nodes ended with status {process.wait()}")


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "it was asked for"
    return pipe


def main() -> None:
    from ray.cluster_utils import Cluster

    from segue.launch.ray.ending import descendants_of, end_processes

    cluster: Any = Cluster(shutdown_at_exit=True)
    threading.Thread(target=_reap, args=(cluster,), daemon=True).start()
    for line in sys.stdin:
        options = {"num_cpus": 0, "object_store_memory": _OBJECT_STORE_BYTES}
        if line.strip() == "head":
            node = _added(cluster, resources=HEAD, include_dashboard=False, **options)
            answer = f"{cluster.address} {_pid_of(node, 'gcs_server')}"
        else:
            answer = str(_pid_of(_added(cluster, resources=NODE, **options), "raylet"))
        sys.stdout.write(f"{line.strip()}: {answer}\n")
        sys.stdout.flush()
    nodes = cluster.list_all_nodes()
    raylets = {_pid_of(node, "raylet") for node in nodes if "raylet" in node.all_processes}
    started = descendants_of(raylets)
    for node in nodes:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=False)
    # As `ray stop` does: without the GCS a raylet's agents would stay.
    end_processes(started)


def _added(cluster: Any, **options: Any) -> Any:
    """Ray gives a start up after 30 s, which a busy machine may take."""
    for _ in range(_MAX_STARTS - 1):
        with contextlib.suppress(Exception):
            return cluster.add_node(**options)
    return cluster.add_node(**options)


def _reap(cluster: Any) -> None:
    """A raylet that was killed must be waited for: its workers look for its process id."""
    while True:
        for node in cluster.list_all_nodes():
            node.dead_processes()
        time.sleep(_REAP_EVERY_S)


def _pid_of(node: Any, kind: str) -> int:
    pid: int = node.all_processes[kind][0].process.pid
    return pid


if __name__ == "__main__":
    main()
