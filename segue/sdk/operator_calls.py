"""An operator's calls: drains, the number of workers, the configuration."""

from __future__ import annotations

from segue.api.checks import require, require_seconds, require_type
from segue.api.cluster.drain import MAX_DRAIN_S, DrainReport
from segue.api.cluster.fleet import FleetStatus, Reloaded, ScaleOrder
from segue.sdk.calls import RouterCalls
from segue.v1 import session_pb2 as pb
from segue.wire.convert.drain import drain_report_from_wire
from segue.wire.convert.same_names import message_of, value_of

# The router waits a little longer for the worker than the drain may take, and we for the router.
_DRAIN_SLACK_S = 60.0
# The launcher asks for orders once a second, and the router waits up to 20 s for its answer.
_LAUNCHER_TIMEOUT_S = 30.0


class OperatorCalls(RouterCalls):
    """The part of a `Client` that changes the cluster. Most need an operator's API key."""

    async def is_operator(self, *, timeout_s: float = 5.0) -> bool:
        """Whether this client may drain processes."""
        reply = await self._ask(
            lambda stub, how: stub.GetStatus(pb.GetStatusRequest(), **how),
            timeout_s=timeout_s,
            waits=False,
        )
        return reply.is_operator

    async def drain_router(self, *, timeout_s: float | None = None) -> tuple[int, int]:
        """Takes the client's only router out of service. Returns just before the router ends: the
        number of turns that have ended there, and of those that ran out of time, which clients
        continue on another router or on its successor.

        `timeout_s`: time limit for running turns; by default `[router] drain_s`. Needs an
        operator's API key. Raises PermissionDenied.
        """
        require_seconds("timeout_s", timeout_s)
        require(
            len(self._targets.links) == 1,
            f"expected a client of the router to drain alone, got one of {self._targets}: "
            "create a Client with that router's address only",
        )
        patience_s = (MAX_DRAIN_S if timeout_s is None else timeout_s) + _DRAIN_SLACK_S
        reply = await self._ask(
            lambda stub, how: stub.DrainRouter(pb.DrainRouterRequest(timeout_s=timeout_s), **how),
            timeout_s=patience_s,
            waits=False,
        )
        return reply.ended_turns, reply.cut_turns

    async def drain_worker(
        self, worker_id: str, *, move_sessions: bool = True, timeout_s: float | None = None
    ) -> DrainReport:
        """Takes a worker out of service. Returns just before the worker ends: its turns have ended
        or continue elsewhere, and a decode worker's sessions have moved to other decode workers.

        `timeout_s`: time limit; by default the worker's own `drain_s`. Needs an operator's API key.
        Cancelling the call does not end the drain, and a second call joins it. Raises NotFound,
        PermissionDenied.
        """
        require_type("worker_id", worker_id, str, "a text")
        require_type("move_sessions", move_sessions, bool, "True or False")
        require_seconds("timeout_s", timeout_s)
        request = pb.DrainWorkerRequest(
            worker_id=worker_id, move_sessions=move_sessions, timeout_s=timeout_s
        )
        patience_s = (MAX_DRAIN_S if timeout_s is None else timeout_s) + _DRAIN_SLACK_S
        reply = await self._ask(
            lambda stub, how: stub.DrainWorker(request, **how),
            timeout_s=patience_s,
            waits=False,
        )
        return drain_report_from_wire(reply.report)

    async def scale_workers(
        self, *, prefill: int | None = None, decode: int | None = None
    ) -> FleetStatus:
        """Sets the number of workers; None leaves it as it is. Returns when the launcher has
        accepted it. The launcher then starts workers, or drains them one by one: see
        `status().fleet`. A later call replaces the numbers. Needs an operator's API key.

        Raises InvalidRequest for numbers that are out of limits or have no room, PermissionDenied,
        and Unavailable if the cluster has no launcher.
        """
        order = ScaleOrder(prefill=prefill, decode=decode)
        request = message_of(pb.ScaleWorkersRequest, order)
        reply = await self._ask(
            lambda stub, how: stub.ScaleWorkers(request, **how),
            timeout_s=_LAUNCHER_TIMEOUT_S,
            waits=False,
        )
        return value_of(FleetStatus, reply.fleet)

    async def reload_config(self) -> Reloaded:
        """Makes the launcher read its configuration file again. Needs an operator's API key.

        Raises InvalidConfig, and changes nothing, if the file cannot be read or has changes that a
        running cluster cannot apply; PermissionDenied, Unavailable.
        """
        reply = await self._ask(
            lambda stub, how: stub.ReloadConfig(pb.ReloadConfigRequest(), **how),
            timeout_s=_LAUNCHER_TIMEOUT_S,
            waits=False,
        )
        return value_of(Reloaded, reply)
