"""Workers and routers as Ray actors, for the controller of the cluster's size. No call waits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from segue.api.cluster.fleet import LauncherReport, Ordered
from segue.api.cluster.status import ClusterStatus
from segue.api.errors import Unavailable
from segue.launch.ray.calls import PendingCall
from segue.launch.ray.starting import StartedWorker, start_error

logger = logging.getLogger(__name__)


class RayWorker:
    """A `WorkerProcess`."""

    def __init__(self, name: str, worker: StartedWorker, on_end: Callable[[str], None]) -> None:
        """`on_end` is called before the process ends for good."""
        self._name = name
        self._worker = worker
        self._actor = worker.actor
        self._on_end = on_end
        self._started = PendingCall(self._actor.address.remote())
        self._retired: PendingCall | None = None

    def serves(self) -> bool:
        if not self._started.is_over:
            return False
        started, self._started = self._started, PendingCall(self._actor.address.remote())
        try:
            started.result()
        except RayTaskError as error:
            raise start_error(self._name, error) from None
        except RayActorError:
            raise Unavailable(f"{self._name} died during its start") from None
        return True

    def retire(self) -> None:
        self._on_end(self._name)
        self._retired = PendingCall(self._actor.retire.remote())

    def has_left(self) -> str:
        if self._retired is None or not self._retired.is_over:
            return ""
        try:
            # A `DrainReport`.
            return str(self._retired.result())
        except RayError as error:
            return f"it ended before its drain did ({type(error).__name__})"

    def end(self) -> None:
        self._on_end(self._name)
        self._worker.kill()


class RayRouter:
    """A `LaunchedRouter`. Calls a restarting router again once it answers."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._exchange: PendingCall | None = None
        self._status = PendingCall(actor.status.remote())
        self._view: ClusterStatus | None = None

    def orders(self) -> Sequence[Ordered]:
        if self._exchange is None or not self._exchange.is_over:
            return ()
        exchange, self._exchange = self._exchange, None
        try:
            orders: Sequence[Ordered] = exchange.result()
        except RayError as error:
            logger.info("a router does not answer", extra={"error": str(error)})
            return ()
        return orders

    def view(self) -> ClusterStatus | None:
        if self._status.is_over:
            status, self._status = self._status, PendingCall(self._actor.status.remote())
            try:
                self._view = status.result()
            except RayError:
                self._view = None
        return self._view

    def send(self, report: LauncherReport) -> None:
        if self._exchange is None:
            self._exchange = PendingCall(self._actor.exchange.remote(report))

    def wait_until_sent(self, timeout_s: float) -> None:
        if self._exchange is not None:
            self._exchange.ends_within(timeout_s)
