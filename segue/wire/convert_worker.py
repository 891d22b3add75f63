"""Values to protobuf and back: what the router and the workers say to each other."""

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
from segue.turn import PrefixHolder, ShipReport, TurnResult, TurnSpec
from segue.types import Epoch, Role, SessionId, TurnId, WorkerId
from segue.wire import session_pb2 as pb
from segue.wire import transfer_pb2, worker_pb2
from segue.wire.convert_events import (
    finish_reason_from_wire,
    finish_reason_to_wire,
    usage_from_wire,
    usage_to_wire,
)
from segue.wire.convert_request import (
    sampling_from_wire,
    sampling_to_wire,
    stop_from_wire,
    stop_to_wire,
)

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


def turn_to_wire(turn: TurnSpec) -> worker_pb2.TurnSpec:
    return worker_pb2.TurnSpec(
        turn_id=turn.turn_id,
        session_id=turn.session_id,
        prompt=turn.prompt,
        sampling=sampling_to_wire(turn.sampling),
        stop=stop_to_wire(turn.stop),
        branch_points=turn.branch_points,
    )


def turn_from_wire(turn: worker_pb2.TurnSpec) -> TurnSpec:
    """Raises InvalidRequest for what no model could serve; `limits.py` knows the model's."""
    return TurnSpec(
        turn_id=TurnId(turn.turn_id),
        session_id=SessionId(turn.session_id),
        prompt=tuple(turn.prompt),
        sampling=sampling_from_wire(turn.sampling, default_seed=0),
        stop=stop_from_wire(turn.stop),
        branch_points=tuple(turn.branch_points),
    )


def holder_to_wire(holder: PrefixHolder) -> worker_pb2.PrefixHolder:
    return worker_pb2.PrefixHolder(
        worker_id=holder.worker_id,
        epoch=holder.epoch,
        address=holder.address,
        checkpoint_tokens=holder.checkpoint_tokens,
    )


def holder_from_wire(holder: worker_pb2.PrefixHolder) -> PrefixHolder:
    """Raises InvalidRequest."""
    require_name("the holder's name", holder.worker_id)
    require_epoch("the holder's epoch", holder.epoch)
    require_address("the holder's address", holder.address)
    require_count("the holder's checkpoint_tokens", holder.checkpoint_tokens, low=1)
    return PrefixHolder(
        worker_id=WorkerId(holder.worker_id),
        epoch=Epoch(holder.epoch),
        address=holder.address,
        checkpoint_tokens=holder.checkpoint_tokens,
    )


def report_to_wire(report: ShipReport) -> transfer_pb2.ShipReport:
    return transfer_pb2.ShipReport(
        shipped_bytes=report.shipped_bytes,
        cached_tokens=report.cached_tokens,
        queue_s=report.queue_s,
        prefill_s=report.prefill_s,
        transfer_s=report.transfer_s,
        exposed_transfer_s=report.exposed_transfer_s,
        computed_tokens=report.computed_tokens,
        pulled_tokens=report.pulled_tokens,
        pulled_bytes=report.pulled_bytes,
        pull_s=report.pull_s,
        kept_tokens=report.kept_tokens,
    )


def report_from_wire(report: transfer_pb2.ShipReport) -> ShipReport:
    """Raises InvalidRequest."""
    for name in ("queue_s", "prefill_s", "transfer_s", "exposed_transfer_s", "pull_s"):
        require_number(f"a report's {name}", getattr(report, name), 0.0, _MAX_SECONDS)
    return ShipReport(
        shipped_bytes=report.shipped_bytes,
        cached_tokens=report.cached_tokens,
        queue_s=report.queue_s,
        prefill_s=report.prefill_s,
        transfer_s=report.transfer_s,
        exposed_transfer_s=report.exposed_transfer_s,
        computed_tokens=report.computed_tokens,
        pulled_tokens=report.pulled_tokens,
        pulled_bytes=report.pulled_bytes,
        pull_s=report.pull_s,
        kept_tokens=report.kept_tokens,
    )


def result_to_wire(result: TurnResult) -> worker_pb2.DecodeEnd:
    return worker_pb2.DecodeEnd(
        finish_reason=finish_reason_to_wire(result.finish_reason),
        usage=usage_to_wire(result.usage),
        report=report_to_wire(result.report),
        decode_s=result.decode_s,
        stop_match=result.stop_match,
        kept_tokens=result.kept_tokens,
        kept_checkpoint_tokens=result.kept_checkpoint_tokens,
    )


def result_from_wire(end: worker_pb2.DecodeEnd) -> TurnResult:
    """Raises InvalidRequest."""
    require_number("a result's decode_s", end.decode_s, 0.0, _MAX_SECONDS)
    return TurnResult(
        finish_reason=finish_reason_from_wire(end.finish_reason),
        usage=usage_from_wire(end.usage),
        report=report_from_wire(end.report),
        decode_s=end.decode_s,
        stop_match=end.stop_match,
        kept_tokens=end.kept_tokens,
        kept_checkpoint_tokens=end.kept_checkpoint_tokens,
    )


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
