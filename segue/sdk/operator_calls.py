"""What an operator asks of a cluster: drains, the number of workers, the configuration."""

from __future__ import annotations

from segue.api.checks import require, require_seconds, require_type
from segue.api.cluster.drain import MAX_DRAIN_S, DrainReport
from segue.api.cluster.fleet import FleetStatus, Reloaded, ScaleOrder
from segue.sdk.calls import RouterCalls
from segue.v1 import session_pb2 as pb
from segue.wire.convert.drain import drain_report_from_wire
from segue.wire.convert.same_names import message_of, value_of

# The router waits a little longer than the drain's time for the worker, and we for the router.
_DRAIN_SLACK_S = 60.0
# The launcher asks for orders once a second, and the router waits up to 20 s for its answer.
_LAUNCHER_TIMEOUT_S = 30.0


class OperatorCalls(RouterCalls):
    """The part of a `Client` that changes the cluster. Most need an operator's API key."""

    async def is_operator(self, *, timeout_s: float = 5.0) -> bool:
        """Whether this client may drain processes."""
        reply = await self._targets.ask(
            "",
            lambda link: link.stub.GetStatus(
                pb.GetStatusRequest(), timeout=timeout_s, metadata=self._key
            ),
            timeout_s=timeout_s,
        )
        return reply.is_operator

    async def drain_router(self, *, timeout_s: float | None = None) -> tuple[int, int]:
        """Takes the client's only router out of service, and returns when it is about to leave: how
        many turns have ended there, and how many ran out of time. Clients go on with those on
        another router, or on its successor.

        `timeout_s`: how long running turns may take; by default `[router] drain_s`. Needs an
        operator's API key. Raises PermissionDenied.
        """
        require_seconds("timeout_s", timeout_s)
        require(
            len(self._targets.links) == 1,
            f"expected a client of the router that is to be drained, got one of {self._targets}: "
            "make a Client with that router's address alone",
        )
        patience_s = (MAX_DRAIN_S if timeout_s is None else timeout_s) + _DRAIN_SLACK_S
        reply = await self._targets.ask(
            "",
            lambda link: link.stub.DrainRouter(
                pb.DrainRouterRequest(timeout_s=timeout_s), timeout=patience_s, metadata=self._key
            ),
            timeout_s=patience_s,
        )
        return reply.ended_turns, reply.cut_turns

    async def drain_worker(
        self, worker_id: str, *, move_sessions: bool = True, timeout_s: float | None = None
    ) -> DrainReport:
        """Takes a worker out of service, and returns when it is about to leave: its turns have
        ended or go on elsewhere, and its sessions have moved to other decode workers, if it is one.

        `timeout_s`: how long that may take; by default the worker's own `drain_s`. Needs an
        operator's API key. Leaving the call does not end the drain, and a second call joins it.
        Raises NotFound, PermissionDenied.
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
        """Sets how many workers there are to be; None: as many as now. Returns when the launcher
        has accepted it. It then starts workers, or drains them one after another:
        `status().fleet`. A later call replaces the numbers. Needs an operator's API key.

        Raises InvalidRequest for numbers that cannot be had, PermissionDenied, and Unavailable if
        the cluster has no launcher.
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

        Raises InvalidConfig, and nothing has changed, if the file cannot be read or changes what a
        running cluster cannot; PermissionDenied, Unavailable.
        """
        reply = await self._ask(
            lambda stub, how: stub.ReloadConfig(pb.ReloadConfigRequest(), **how),
            timeout_s=_LAUNCHER_TIMEOUT_S,
            waits=False,
        )
        return value_of(Reloaded, reply)
