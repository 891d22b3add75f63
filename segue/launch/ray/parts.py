"""Which of Ray's own processes have ended."""

from __future__ import annotations

import socket

import ray

GCS, RAYLET = "gcs_server", "raylet"
_ANSWER_TIMEOUT_S = 1.0


def ended_parts() -> set[str]:
    """Without its GCS Ray restarts nothing. Its raylet takes the processes of its node along."""
    node = ray._private.worker._global_node
    if node is None:
        return set()
    ended = {kind for kind, _ in node.dead_processes()} & {GCS, RAYLET}
    # We did not start the GCS of a cluster that we joined.
    if not node.head and _is_refused(node.gcs_address):
        ended.add(GCS)
    return ended


def _is_refused(address: str) -> bool:
    """Whether nothing listens there. No answer proves nothing: the machine may be busy."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
