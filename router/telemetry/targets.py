"""What Prometheus should scrape: the answer of `/targets`, in the format of its HTTP discovery."""

from __future__ import annotations

import json
from collections.abc import Iterable

from segue.api.cluster.status import WorkerStatus


def targets_of(router: str, workers: Iterable[WorkerStatus], *, has_tls: bool) -> bytes:
    """JSON: the metrics addresses of this router and of all workers that it knows, lost ones too,
    so that a scrape that fails shows them as down.
    """
    scheme = {"__scheme__": "https"} if has_tls else {}
    groups = [
        {"targets": [address], "labels": {"role": role, "process": process, **scheme}}
        for role, process, address in (
            ("router", router, router),
            *((w.role.value, w.worker_id, w.metrics_address) for w in workers),
        )
        if address
    ]
    return json.dumps(groups).encode()
