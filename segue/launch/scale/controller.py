"""Keeps the cluster at its wanted size, and carries out orders from its routers.

Each look is short and does not wait: it reads the routers' answers, decides with pure functions
(`plan.py`, `autoscale.py`), and acts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from segue.api.cluster.fleet import (
    FleetStatus,
    LauncherReport,
    Ordered,
    OrderResult,
    Reloaded,
    ReloadOrder,
    ScaleOrder,
    WorkerCounts,
)
from segue.api.cluster.status import ClusterStatus
from segue.api.errors import InvalidRequest, SegueError
from segue.launch.config import Config
from segue.launch.scale.autoscale import State, decide, in_words, signals_of
from segue.launch.scale.fleet import Fleet
from segue.launch.scale.plan import next_actions
from segue.launch.scale.reload import rules_of
from segue.process.telemetry import Clock

logger = logging.getLogger(__name__)


class LaunchedRouter(Protocol):
    """A router, as the launcher sees it. No method waits."""

    def orders(self) -> Sequence[Ordered]:
        """Orders received since the last call."""

    def view(self) -> ClusterStatus | None:
        """The latest view; None if the router does not answer."""

    def send(self, report: LauncherReport) -> None: ...


class CapacityCheck(Protocol):
    """Whether machines have room for more workers."""

    def missing(self, config: Config, now: WorkerCounts, wanted: WorkerCounts) -> str:
        """The missing and free resources, in words; empty if `wanted` has room."""

    def request(self, config: Config) -> None:
        """Requests room for all processes from the Ray cluster's autoscaler, if it has one. Raises
        Unavailable if Ray does not answer."""


Reload = Callable[[Config], tuple[Config, Reloaded]]
"""The configuration of the current file, and its changes. Raises InvalidConfig."""


class Controller:
    """The launcher's main thread owns it."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        routers: Sequence[LaunchedRouter],
        room: CapacityCheck,
        *,
        reload: Reload,
        report: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.config = config
        self.wanted = WorkerCounts(prefill=config.cluster.prefill, decode=config.cluster.decode)
        self._fleet = fleet
        self._routers = routers
        self._room = room
        self._reload = reload
        self._report = report
        self._clock = clock
        self._load = State()
        self._refused = ""
        """The last reason for which a change by load was refused."""

    def look(self, *, may_act: bool = True) -> None:
        """Call it about once a second. `may_act`: Ray can start processes."""
        answers = [[self._answer(one) for one in router.orders()] for router in self._routers]
        views = [view for router in self._routers if (view := router.view()) is not None]
        view = views[0] if views else None
        seen = self._fleet.look(view)
        if views and may_act:
            self._follow_load(views)
        if may_act:
            self._fleet.act(next_actions(self.wanted, seen))
        fleet = FleetStatus(
            has_launcher=True,
            prefill=self.wanted.prefill,
            decode=self.wanted.decode,
            changes=tuple(self._fleet.changes(view)),
            autoscales=self.config.autoscale.enabled,
        )
        for router, own in zip(self._routers, answers, strict=True):
            report = LauncherReport(fleet=fleet, answers=tuple(own), rules=rules_of(self.config))
            router.send(report)

    def reload(self) -> Reloaded:
        """Raises InvalidConfig, InvalidRequest if there is no room for more workers, and
        Unavailable if Ray does not answer."""
        config, reloaded = self._reload(self.config)
        wanted = WorkerCounts(prefill=config.cluster.prefill, decode=config.cluster.decode)
        before = self.config.cluster
        has_moved = (before.prefill, before.decode) != (wanted.prefill, wanted.decode)
        if has_moved:
            self._want(config, wanted)
        # The nodes that a worker needs may have changed too.
        self._room.request(_sized(config, self.wanted))
        self.config = config
        for line in reloaded.applied:
            self._report(f"applied: {line}")
        for line in reloaded.for_new_workers:
            self._report(f"for new workers: {line}")
        return reloaded

    def _follow_load(self, views: Sequence[ClusterStatus]) -> None:
        """Changes the numbers by load, if `[autoscale]` is enabled."""
        settings = self.config.autoscale
        if not settings.enabled:
            self._load = State()
            return
        signals = signals_of(views)
        self._load, wanted = decide(self._load, signals, self.wanted, settings, self._clock())
        if wanted == self.wanted:
            return
        try:
            self._want(self.config, wanted)
        except SegueError as error:
            if str(error) != self._refused:
                self._report(f"the load needs more workers: {error}")
            self._refused = str(error)
        else:
            self._refused = ""
            self._report(f"by load: {in_words(signals)}")

    def _answer(self, ordered: Ordered) -> OrderResult:
        try:
            match ordered.order:
                case ScaleOrder() as order:
                    self._want(self.config, order.counts(self.wanted))
                    reloaded = Reloaded()
                case ReloadOrder():
                    reloaded = self.reload()
        except SegueError as error:
            self._report(f"refused: {error}")
            return OrderResult(name=ordered.name, error=error)
        return OrderResult(name=ordered.name, reloaded=reloaded)

    def _want(self, config: Config, wanted: WorkerCounts) -> None:
        """Raises InvalidRequest if there is no room, and Unavailable if Ray does not answer."""
        if wanted == self.wanted:
            return
        limits = config.autoscale
        if limits.enabled and limits.within(wanted) != wanted:
            raise InvalidRequest(
                f"{wanted} workers are out of the limits of [autoscale]: {limits.min_prefill} to "
                f"{limits.max_prefill} prefill and {limits.min_decode} to {limits.max_decode} "
                "decode; change these, and `segue reload`"
            )
        if missing := self._room.missing(config, self.wanted, wanted):
            raise InvalidRequest(f"no room for {wanted} workers: {missing}")
        self._room.request(_sized(config, wanted))
        self.wanted = wanted
        self._report(f"scaling to {wanted}")


def _sized(config: Config, wanted: WorkerCounts) -> Config:
    cluster = replace(config.cluster, prefill=wanted.prefill, decode=wanted.decode)
    return replace(config, cluster=cluster)
