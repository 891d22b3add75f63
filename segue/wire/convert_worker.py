"""Values to protobuf and back: what the router and the workers say to each other."""

from __future__ import annotations

from segue.types import (
    Epoch,
    Role,
    SessionId,
    TurnId,
    TurnSpec,
    UnitCounts,
    WorkerHealth,
    WorkerId,
    WorkerLoad,
    WorkerStatus,
)
from segue.wire import session_pb2 as pb
from segue.wire import worker_pb2
from segue.wire.convert import (
    sampling_from_wire,
    sampling_to_wire,
    stop_from_wire,
    stop_to_wire,
)

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
    )


def turn_from_wire(turn: worker_pb2.TurnSpec) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId(turn.turn_id),
        session_id=SessionId(turn.session_id),
        prompt=tuple(turn.prompt),
        sampling=sampling_from_wire(turn.sampling, default_seed=0),
        stop=stop_from_wire(turn.stop),
    )


def counts_to_wire(counts: UnitCounts) -> pb.UnitCounts:
    return pb.UnitCounts(
        total=counts.total,
        free=counts.free,
        working=counts.working,
        cached=counts.cached,
        reserved=counts.reserved,
        quarantined=counts.quarantined,
    )


def counts_from_wire(counts: pb.UnitCounts) -> UnitCounts:
    return UnitCounts(
        total=counts.total,
        free=counts.free,
        working=counts.working,
        cached=counts.cached,
        reserved=counts.reserved,
        quarantined=counts.quarantined,
    )


def load_to_wire(load: WorkerLoad) -> pb.WorkerLoad:
    return pb.WorkerLoad(
        pages=counts_to_wire(load.pages),
        slots=counts_to_wire(load.slots),
        running_turns=load.running_turns,
        waiting_turns=load.waiting_turns,
        waiting_tokens=load.waiting_tokens,
        tokens_per_s=load.tokens_per_s,
    )


def load_from_wire(load: pb.WorkerLoad) -> WorkerLoad:
    return WorkerLoad(
        pages=counts_from_wire(load.pages),
        slots=counts_from_wire(load.slots),
        running_turns=load.running_turns,
        waiting_turns=load.waiting_turns,
        waiting_tokens=load.waiting_tokens,
        tokens_per_s=load.tokens_per_s,
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
    return WorkerStatus(
        worker_id=WorkerId(status.worker_id),
        role=_ROLE_FROM_WIRE[status.role],
        epoch=Epoch(status.epoch),
        address=status.address,
        metrics_address=status.metrics_address,
        health=_HEALTH_FROM_WIRE[status.health],
        load=load_from_wire(status.load),
        pid=status.pid,
        host=status.host,
    )
