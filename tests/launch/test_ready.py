"""The report on a cluster that does not become ready."""

from __future__ import annotations

from segue.api.cluster.status import ClusterStatus, RouterStatus, WorkerHealth, WorkerStatus
from segue.api.types import Epoch, Role, WorkerId


def cluster(*, ready: bool = True, **healths: WorkerHealth) -> ClusterStatus:
    workers = tuple(
        WorkerStatus(
            worker_id=WorkerId(name.replace("_", "-")),
            role=Role(name.split("_")[0]),
            epoch=Epoch(1),
            address="127.0.0.1:1",
            health=health,
        )
        for name, health in healths.items()
    )
    return ClusterStatus(
        ready=ready, model="demo", model_id="m", workers=workers, router=RouterStatus(address="")
    )


def test_a_complete_cluster_is_ready() -> None:
    ready = WorkerHealth.READY

    assert cluster(prefill_0=ready, decode_0=ready).missing(2) == ""


def test_a_lost_worker_does_not_count_and_is_named() -> None:
    status = cluster(prefill_0=WorkerHealth.READY, decode_0=WorkerHealth.LOST)

    assert status.missing(2) == "1 of 2 workers are ready, decode-0 is lost"


def test_missing_workers_are_counted() -> None:
    assert cluster(ready=False).missing(2) == "0 of 2 workers are ready"
