"""A Ray cluster on this machine whose own autoscaler adds and removes nodes.

Not `ray.cluster_utils.AutoscalingCluster`: that ends every Ray of the machine when it starts and
stops, and needs a file that Ray's wheels lack. Ray's fake provider of nodes is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)

from segue.launch.ray.ending import descendants_of, end_processes

IDLE_S = 5.0
"""How long a node is idle before Ray takes it away."""
# Ray reads these without a default.
_LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
)


def settings(
    address: str, head: Mapping[str, float], kinds: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """As `ray up` reads them. `kinds`: of nodes, each with resources and the most of them."""
    workers = {name: {"node_config": {}, **kind} for name, kind in kinds.items()}
    return {
        "cluster_name": "segue",
        "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": {
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": dict(head), "node_config": {}, "max_workers": 0},
            **workers,
        },
        "head_node_type": "ray.head.default",
        **{name: [] for name in _LISTS},
        **{name: {} for name in ("file_mounts", "auth", "docker")},
        "upscaling_speed": 1.0,
    }


@contextlib.contextmanager
def autoscaling_ray(
    folder: Path, head: Mapping[str, float], kinds: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Yields the cluster's address. `folder` is for its settings and output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(settings(address, head, kinds)))
    with (folder / "ray-start.txt").open("w") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "ray"),
                *("start", "--head", "--block", f"--autoscaling-config={file}"),
                *("--node-ip-address", "127.0.0.1", "--port", address.rpartition(":")[2]),
                *("--num-cpus", "0", "--num-gpus", "0", "--resources", json.dumps(dict(head))),
                *("--include-dashboard", "false", "--object-store-memory", "100000000"),
                "--disable-usage-stats",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            },
        )
    try:
        yield address
    finally:
        started = descendants_of({process.pid})
        process.send_signal(signal.SIGTERM)
        end_processes(started)
        process.wait()
