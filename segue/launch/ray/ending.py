"""Ray's own processes: which of them have ended, and ending Ray with all that it has started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from pathlib import Path

import ray

logger = logging.getLogger(__name__)

GCS, RAYLET = "gcs_server", "raylet"
_ANSWER_TIMEOUT_S = 1.0
_GRACE_S = 3.0
_LOOK_EVERY_S = 0.05


def ended_parts() -> set[str]:
    """The Ray processes that have ended. Without its GCS, Ray restarts nothing. When a raylet ends,
    the processes of its node end too."""
    node = ray._private.worker._global_node
    if node is None:
        return set()
    ended = {kind for kind, _ in node.dead_processes()} & {GCS, RAYLET}
    # We did not start the GCS of a cluster that we joined.
    if not node.head and _is_refused(node.gcs_address):
        ended.add(GCS)
    return ended


def _is_refused(address: str) -> bool:
    """Whether nothing listens there. A missing answer is no proof: the machine may be busy."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def end_ray() -> None:
    """Leaves the cluster that was joined, or ends the one that was started here.

    The agents of a raylet wait for its end, and then for the GCS, to report it. Without a GCS they
    would stay forever.
    """
    started = descendants_of(_raylet_pids())
    ray.shutdown()
    end_processes(started)


def kill_ray() -> None:
    """Ends what was started here without calling Ray, which may no longer answer."""
    end_processes(descendants_of(_raylet_pids()), grace_s=0.0)


def _raylet_pids() -> set[int]:
    """Empty if the raylet belongs to a cluster that was joined."""
    node = ray._private.worker._global_node
    parts = node.all_processes.get(RAYLET, ()) if node is not None else ()
    return {part.process.pid for part in parts}


Process = tuple[int, str]
"""Process id, and start in ticks since boot, because ids are reused."""


def descendants_of(pids: set[int]) -> set[Process]:
    """These processes and all their descendants. Empty on a system without /proc."""
    parents: dict[int, int] = {}
    starts: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # Processes end during the loop.
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            parents[pid], starts[pid] = _parent_and_start(pid)
    found = pids & starts.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {(pid, starts[pid]) for pid in found}


def end_processes(processes: set[Process], *, grace_s: float = _GRACE_S) -> None:
    """Kills those that have not ended after the grace."""
    ends_at = time.monotonic() + grace_s
    while (left := {one for one in processes if _is_alive(one)}) and time.monotonic() < ends_at:
        time.sleep(_LOOK_EVERY_S)
    for pid, _ in left:
        logger.info("killing a process that Ray has left", extra={"pid": pid})
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_alive(process: Process) -> bool:
    try:
        return _parent_and_start(process[0])[1] == process[1]
    except OSError:
        return False


def _parent_and_start(pid: int) -> tuple[int, str]:
    """Raises OSError if it has ended, even if it is still a zombie."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[1]), fields[19]
