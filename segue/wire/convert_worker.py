"""Values to protobuf and back: the workers and the cluster as the router sees them."""

from __future__ import annotations

from segue.checks import (
    MAX_COUNT,
    one_of,
    require,
    require_address,
    require_count,
    require_epoch,
    require_label,
    require_name,
    require_number,
)
from segue.cluster_status import (
    ClusterStatus,
    RouterStatus,
    SessionInfo,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.types import Epoch, Role, SessionId, WorkerId
from segue.v1 import session_pb2 as pb

_MAX_SECONDS = 1e9
_MAX_PAGE_TOKENS = 1 << 20

_ROLE_TO_WIRE = {
    Role.PREFILL: pb.WORKER_ROLE_PREFILL,
    Role.DECODE: pb.WORKER_ROLE_DECODE,
}
_ROLE_FROM_WIRE = {wire: role for role, wire in _ROLE_TO_WIRE.items()}
_HEALTH_TO_WIRE = {
    WorkerHealth.READY: pb.WORKER_HEALTH_READY,
    WorkerHealth.DRAINING: pb.WORKER_HEALTH_DRAINING,
    WorkerHealth.LOST: pb.WORKER_HEALTH_LOST,
}
_HEALTH_FROM_WIRE = {wire: health for health, wire in _HEALTH_TO_WIRE.items()}


def counts_to_wire(counts: UnitCounts) -> pb.UnitCounts:
    return pb.UnitCounts(
        total=counts.total,
        free=counts.free,
        working=counts.working,
        cached=counts.cached,
        reserved=counts.reserved,
        quarantined=counts.quarantined,
        stray=counts.stray,
    )


def counts_from_wire(counts: pb.UnitCounts) -> UnitCounts:
    """Raises InvalidRequest."""
    by_state = (
        counts.free,
        counts.working,
        counts.cached,
        counts.reserved,
        counts.quarantined,
    )
    require(
        sum(by_state) == counts.total,
        f"units by state must add up to the total of {counts.total}, got {by_state}",
    )
    require_count("stray units", counts.stray, high=counts.total)
    return UnitCounts(
        total=counts.total,
        free=counts.free,
        working=counts.working,
        cached=counts.cached,
        reserved=counts.reserved,
        quarantined=counts.quarantined,
        stray=counts.stray,
    )


def load_to_wire(load: WorkerLoad) -> pb.WorkerLoad:
    return pb.WorkerLoad(
        pages=counts_to_wire(load.pages),
        slots=counts_to_wire(load.slots),
        host_pages=counts_to_wire(load.host_pages),
        host_slots=counts_to_wire(load.host_slots),
        running_turns=load.running_turns,
        waiting_turns=load.waiting_turns,
        waiting_tokens=load.waiting_tokens,
        tokens_per_s=load.tokens_per_s,
        page_tokens=load.page_tokens,
    )


def load_from_wire(load: pb.WorkerLoad) -> WorkerLoad:
    """Raises InvalidRequest."""
    require_count("page_tokens", load.page_tokens, low=1, high=_MAX_PAGE_TOKENS)
    require_count("waiting_tokens", load.waiting_tokens)
    require_number("tokens_per_s", load.tokens_per_s, 0.0, MAX_COUNT)
    return WorkerLoad(
        pages=counts_from_wire(load.pages),
        slots=counts_from_wire(load.slots),
        host_pages=counts_from_wire(load.host_pages),
        host_slots=counts_from_wire(load.host_slots),
        running_turns=load.running_turns,
        waiting_turns=load.waiting_turns,
        waiting_tokens=load.waiting_tokens,
        tokens_per_s=load.tokens_per_s,
        page_tokens=load.page_tokens,
    )


def worker_to_wire(status: WorkerStatus) -> pb.WorkerStatus:
    return pb.WorkerStatus(
        worker_id=status.worker_id,
        role=_ROLE_TO_WIRE[status.role],
        epoch=status.epoch,
        address=status.address,
        metrics_address=status.metrics_address,
        health=_HEALTH_TO_WIRE[status.health],
        load=load_to_wire(status.load),
        pid=status.pid,
        host=status.host,
    )


def worker_from_wire(status: pb.WorkerStatus) -> WorkerStatus:
    """Raises InvalidRequest."""
    require_name("worker_id", status.worker_id)
    name = status.worker_id
    require_epoch(f"the epoch of {name}", status.epoch)
    require_address(f"the address of {name}", status.address)
    require_label(f"the metrics_address of {name}", status.metrics_address)
    require_label(f"the host of {name}", status.host)
    return WorkerStatus(
        worker_id=WorkerId(status.worker_id),
        role=one_of(f"the role of {name}", _ROLE_FROM_WIRE, status.role),
        epoch=Epoch(status.epoch),
        address=status.address,
        metrics_address=status.metrics_address,
        health=one_of(f"the health of {name}", _HEALTH_FROM_WIRE, status.health),
        load=load_from_wire(status.load),
        pid=status.pid,
        host=status.host,
    )


def cluster_to_wire(status: ClusterStatus) -> pb.ClusterStatus:
    router = status.router
    return pb.ClusterStatus(
        ready=status.ready,
        model=status.model,
        model_id=status.model_id,
        workers=[worker_to_wire(worker) for worker in status.workers],
        router=pb.RouterStatus(
            address=router.address,
            metrics_address=router.metrics_address,
            sessions=router.sessions,
            running_turns=router.running_turns,
            finished_turns=router.finished_turns,
            failed_turns=router.failed_turns,
            cancelled_turns=router.cancelled_turns,
            completion_tokens_per_s=router.completion_tokens_per_s,
            draining=router.draining,
        ),
    )


def cluster_from_wire(status: pb.ClusterStatus) -> ClusterStatus:
    router = status.router
    return ClusterStatus(
        ready=status.ready,
        model=status.model,
        model_id=status.model_id,
        workers=tuple(worker_from_wire(worker) for worker in status.workers),
        router=RouterStatus(
            address=router.address,
            metrics_address=router.metrics_address,
            sessions=router.sessions,
            running_turns=router.running_turns,
            finished_turns=router.finished_turns,
            failed_turns=router.failed_turns,
            cancelled_turns=router.cancelled_turns,
            completion_tokens_per_s=router.completion_tokens_per_s,
            draining=router.draining,
        ),
    )


def session_to_wire(session: SessionInfo) -> pb.SessionInfo:
    return pb.SessionInfo(
        session_id=session.session_id,
        prefill_worker=session.prefill_worker,
        decode_worker=session.decode_worker,
        kept_tokens=session.kept_tokens,
        kept_checkpoint_tokens=session.kept_checkpoint_tokens,
    )


def session_from_wire(session: pb.SessionInfo) -> SessionInfo:
    return SessionInfo(
        session_id=SessionId(session.session_id),
        prefill_worker=session.prefill_worker,
        decode_worker=session.decode_worker,
        kept_tokens=session.kept_tokens,
        kept_checkpoint_tokens=session.kept_checkpoint_tokens,
    )
