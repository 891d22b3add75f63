"""Values to protobuf and back: the workers and the cluster as the router sees them."""

from __future__ import annotations

from segue.api.checks import (
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
from segue.api.cluster.fleet import FleetStatus
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.types import Role
from segue.v1 import session_pb2 as pb
from segue.wire.convert.same_names import enum_tables, message_of, value_of

_MAX_SECONDS = 1e9
_MAX_PAGE_TOKENS = 1 << 20

_ROLE_TO_WIRE, _ROLE_FROM_WIRE = enum_tables(pb.WorkerRole, {role: role.name for role in Role})
_HEALTH_TO_WIRE, _HEALTH_FROM_WIRE = enum_tables(
    pb.WorkerHealth, {health: health.name for health in WorkerHealth}
)


def counts_from_wire(counts: pb.UnitCounts) -> UnitCounts:
    """Raises InvalidRequest."""
    by_state = (counts.free, counts.working, counts.cached, counts.reserved, counts.quarantined)
    require(
        sum(by_state) == counts.total,
        f"units by state must add up to the total of {counts.total}, got {by_state}",
    )
    require_count("stray units", counts.stray, high=counts.total)
    return value_of(UnitCounts, counts)


def load_from_wire(load: pb.WorkerLoad) -> WorkerLoad:
    """Raises InvalidRequest."""
    require_count("page_tokens", load.page_tokens, low=1, high=_MAX_PAGE_TOKENS)
    require_count("waiting_tokens", load.waiting_tokens)
    require_number("tokens_per_s", load.tokens_per_s, 0.0, MAX_COUNT)
    return value_of(
        WorkerLoad,
        load,
        pages=counts_from_wire(load.pages),
        slots=counts_from_wire(load.slots),
        host_pages=counts_from_wire(load.host_pages),
        host_slots=counts_from_wire(load.host_slots),
    )


def worker_to_wire(status: WorkerStatus) -> pb.WorkerStatus:
    return message_of(
        pb.WorkerStatus,
        status,
        role=_ROLE_TO_WIRE[status.role],
        health=_HEALTH_TO_WIRE[status.health],
    )


def worker_from_wire(status: pb.WorkerStatus) -> WorkerStatus:
    """Raises InvalidRequest."""
    require_name("worker_id", status.worker_id)
    name = status.worker_id
    require_epoch(f"the epoch of {name}", status.epoch)
    require_address(f"the address of {name}", status.address)
    require_label(f"the metrics_address of {name}", status.metrics_address)
    require_label(f"the host of {name}", status.host)
    require_label(f"the operators of {name}", status.operators, max_chars=256)
    require_label(f"the cores of {name}", status.cores, max_chars=4096)
    require_number(f"the drain_left_s of {name}", status.drain_left_s, 0.0, _MAX_SECONDS)
    require_number(f"the uptime_s of {name}", status.uptime_s, 0.0, _MAX_SECONDS)
    return value_of(
        WorkerStatus,
        status,
        role=one_of(f"the role of {name}", _ROLE_FROM_WIRE, status.role),
        health=one_of(f"the health of {name}", _HEALTH_FROM_WIRE, status.health),
        load=load_from_wire(status.load),
    )


def cluster_to_wire(status: ClusterStatus) -> pb.ClusterStatus:
    return message_of(
        pb.ClusterStatus,
        status,
        workers=[worker_to_wire(worker) for worker in status.workers],
    )


def cluster_from_wire(status: pb.ClusterStatus) -> ClusterStatus:
    return value_of(
        ClusterStatus,
        status,
        workers=tuple(worker_from_wire(worker) for worker in status.workers),
        router=value_of(RouterStatus, status.router),
        fleet=value_of(FleetStatus, status.fleet),
    )
