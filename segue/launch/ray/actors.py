"""Ray actors for the processes: thin shells around the objects that `python -m …` builds."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.util

from segue.api.cluster.drain import DrainReport
from segue.api.cluster.fleet import LauncherReport, Ordered
from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.types import Role
from segue.gateway.config import GatewayConfig
from segue.launch.config import Config
from segue.launch.ray.start import logs_folder
from segue.launch.shell import Shell
from segue.process.telemetry import setup_logging
from segue.security.config import Security, is_loopback
from segue.wire.addresses import Hosts, own_address
from segue.worker.process.options import WorkerOptions

if TYPE_CHECKING:
    from router.__main__ import RunningRouter
    from segue.worker.ranks.starting import FollowersStart

logger = logging.getLogger(__name__)


class _ProcessActor:
    """An actor whose work runs in a `Shell`."""

    _shell: Shell[Any]

    def address(self) -> str:
        """Returns when it serves."""
        address: str = self._shell.wait_started().address
        return address

    def life(self) -> tuple[int, bool]:
        """The process id, and whether it serves. Returns at once: a call that waited would delay
        `stop`, which Ray makes after it."""
        return os.getpid(), self._serves()

    def _serves(self) -> bool:
        return self._shell.running is not None

    def stop(self) -> None:
        """Returns when it has stopped in order."""
        self._shell.stop()


class RouterActor(_ProcessActor):
    def __init__(self, config: Config, model: str, name: str, security: Security) -> None:
        from router.__main__ import running

        start_log(name)
        hosts = Hosts.of(config.router.host, config.router.announce, node_address)
        router = replace(config.router, host=hosts.listen, announce=hosts.announce)
        self._shell = Shell(
            name,
            lambda: running(
                router,
                model,
                model_name=config.cluster.model,
                checkpoint=config.checkpoint,
                security=security,
            ),
            ended=lambda running: running.draining.ended.wait(),
        )

    def status(self) -> ClusterStatus:
        """The status that clients see, for the launcher, which has no API key."""
        status: ClusterStatus = self._shell.call(
            lambda running: running.router.status.cluster(running.address, running.metrics_address)
        )
        return status

    def exchange(self, report: LauncherReport) -> list[Ordered]:
        """See `LauncherDesk.exchange`."""

        async def exchange(running: RunningRouter) -> list[Ordered]:
            return running.router.launcher.exchange(report)

        return self._shell.call(exchange)

    def drain(self) -> None:
        """Returns when no turn is running. The router accepts no new turns, and ends those that
        take too long.
        """
        self._shell.call(lambda running: running.router.drain())


class GatewayActor(_ProcessActor):
    def __init__(
        self, config: GatewayConfig, name: str, router_address: str, security: Security
    ) -> None:
        import uvloop

        from segue.gateway.__main__ import running_alone

        start_log(name)
        hosts = Hosts.of(config.host, "", node_address)
        gateway = replace(config, host=hosts.listen)
        self._hosts = hosts
        self._shell = Shell(
            name,
            lambda: running_alone(gateway, router_address, security, log=_log_file(name)),
            ended=lambda running: running.drain_asked(),
            loop_factory=uvloop.new_event_loop,
        )

    def address(self) -> str:
        return self._hosts.at(self._shell.wait_started().port)


class WorkerActor(_ProcessActor):
    """One prefill or decode worker, or the first of its ranks. Ray restarts it if its process
    dies."""

    def __init__(
        self, role: Role, options: WorkerOptions, config: Config, ranks: Sequence[str] = ()
    ) -> None:
        """`ranks`: the names of the others' actors, in order."""
        start_log(options.worker_id)
        hosts = Hosts.of(options.host, options.announce, node_address)
        options = replace(options, host=hosts.listen, announce=hosts.announce)
        others = None
        if ranks:
            # It imports torch, which other processes do without.
            from segue.launch.ray.ranks.gathering import followers_of

            others = followers_of(ranks, hosts, options.security)
        self._shell = Shell(
            options.worker_id,
            lambda: _worker(role, options, config, others),
            ended=lambda running: running.draining.ended.wait(),
        )

    def _serves(self) -> bool:
        running = self._shell.running
        return running is not None and running.worker.presence.health is not WorkerHealth.WARMING

    def retire(self) -> DrainReport:
        """Drains, moves its sessions and leaves the cluster for good. Returns after that: the
        process then only waits for its end.
        """
        report: DrainReport = self._shell.retire(
            lambda running: running.draining.ask(None, move_sessions=True)
        )
        return report


def node_address() -> str:
    """The address of this machine's Ray node, or the machine's own if that Ray is on loopback."""
    address: str = ray.util.get_node_ip_address()
    return own_address() if is_loopback(address) else address


def start_log(name: str) -> None:
    """Logs to a file next to Ray's own, which hold libraries' output. Restarts append to it."""
    setup_logging(name, file=_log_file(name))
    logger.info("process started", extra={"pid": os.getpid()})


def _log_file(name: str) -> Path:
    return logs_folder() / f"segue-{name}.log"


def _worker(
    role: Role, options: WorkerOptions, config: Config, others: FollowersStart | None
) -> Any:
    given: dict[str, Any] = {} if others is None else {"followers": others}
    # Each process imports only its own role.
    if role is Role.PREFILL:
        from prefill_worker.__main__ import running as running_prefill

        return running_prefill(
            options,
            engine=config.engine,
            prefill=config.prefill,
            transfer=config.transfer,
            checkpoint=config.checkpoint,
            **given,
        )
    from decode_worker.__main__ import running as running_decode

    return running_decode(
        options,
        engine=config.engine,
        decode=config.decode,
        transfer=config.transfer,
        checkpoint=config.checkpoint,
        **given,
    )
