"""Brings about a moment of a turn, and names the workers that it concerns.

Most moments last for milliseconds. So a worker is held there (`tests.faults.cluster.worker`) until
the fault has struck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from segue.api.turn import TokenDelta, TurnEvent
from segue.api.types import Role
from segue.sdk.client import Client
from tests.faults.clients.workload import Heard
from tests.faults.cluster import sockets
from tests.faults.cluster.processes import ProcessCluster
from tests.faults.cluster.worker import PASS, WRITE
from tests.faults.matrix import Moment

BEFORE_THE_TURN = frozenset({Moment.BETWEEN, Moment.START})

_NUM_STREAMED = 5
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Where:
    """The workers of the turn that is at the moment."""

    prefill: str
    decode: str


@dataclass(slots=True)
class Scene:
    """A cluster, and the answers to one round of turns so far."""

    cluster: ProcessCluster
    monitor: Client
    heard: dict[int, Heard] = field(default_factory=dict)
    """By session, once it has an event."""
    streamed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_event(self, heard: Heard, event: TurnEvent) -> None:
        self.heard[heard.session] = heard
        if isinstance(event, TokenDelta) and len(heard.token_ids) >= _NUM_STREAMED:
            self.streamed.set()


def arm(moment: Moment, cluster: ProcessCluster) -> None:
    """To be called before the turns start."""
    match moment:
        case Moment.QUEUED | Moment.RESERVED:
            _hold(cluster, Role.PREFILL, PASS)
        case Moment.PREFILLING:
            _hold(cluster, Role.PREFILL, PASS, num_skipped=1)
        case Moment.SHIPPING:
            _hold(cluster, Role.PREFILL, WRITE)
        case Moment.COMMITTED:
            _hold(cluster, Role.DECODE, PASS)


async def reached(moment: Moment, scene: Scene) -> Where:
    """Returns at the moment."""
    return await _REACH[moment](scene)


def release(cluster: ProcessCluster) -> None:
    """Lets every worker go on."""
    for process in cluster.processes.values():
        process.hold.release()


def clear(cluster: ProcessCluster) -> None:
    """Undoes everything, also what has not broken yet."""
    for process in cluster.processes.values():
        process.hold.clear()


def _hold(cluster: ProcessCluster, role: Role, point: str, *, num_skipped: int = 0) -> None:
    for name in cluster.names(role):
        cluster[name].hold.arm(point, num_skipped=num_skipped)


async def _at_once(scene: Scene) -> Where:
    cluster = scene.cluster
    return Where(cluster.names(Role.PREFILL)[0], cluster.names(Role.DECODE)[0])


async def _queued(scene: Scene) -> Where:
    while not (await scene.monitor.status()).router.waiting_turns:
        await asyncio.sleep(_LOOK_EVERY_S)
    return await _at_once(scene)


async def _computing(scene: Scene) -> Where:
    prefill, _ = await _held(scene.cluster, Role.PREFILL, PASS)
    while True:
        workers = (await scene.monitor.status()).workers
        reserved = {str(w.worker_id): w.load.pages.reserved for w in workers}
        decode = max(scene.cluster.names(Role.DECODE), key=lambda name: reserved.get(name, 0))
        if reserved.get(decode):
            return Where(prefill, decode)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _shipping(scene: Scene) -> Where:
    cluster = scene.cluster
    prefill, segment = await _held(cluster, Role.PREFILL, WRITE)
    port = int(segment.rpartition(":")[2])
    decode = cluster.name_of(sockets.listener_on(port, cluster.pids()))
    assert decode, f"none of our processes has Mooncake's port {port}"
    return Where(prefill, decode)


async def _committed(scene: Scene) -> Where:
    decode, _ = await _held(scene.cluster, Role.DECODE, PASS)
    while True:
        for heard in scene.heard.values():
            if heard.decode_worker == decode:
                return Where(heard.prefill_worker, decode)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _streaming(scene: Scene) -> Where:
    await scene.streamed.wait()
    heard = next(h for h in scene.heard.values() if len(h.token_ids) >= _NUM_STREAMED)
    first, *_ = scene.cluster.names(Role.PREFILL)
    # If decode computed the prompt, no prefill worker is named; and a gateway names none.
    is_prefill = heard.prefill_worker in scene.cluster.names(Role.PREFILL)
    prefill = heard.prefill_worker if is_prefill else first
    return Where(prefill, heard.decode_worker or scene.cluster.names(Role.DECODE)[0])


async def _held(cluster: ProcessCluster, role: Role, point: str) -> tuple[str, str]:
    """The first worker of the role that waits there, and the text that it wrote."""
    while True:
        for name in cluster.names(role):
            if (words := cluster[name].hold.held(point)) is not None:
                return name, words
        await asyncio.sleep(_LOOK_EVERY_S)


_REACH: dict[Moment, Callable[[Scene], Awaitable[Where]]] = {
    Moment.QUEUED: _queued,
    Moment.RESERVED: _computing,
    Moment.PREFILLING: _computing,
    Moment.SHIPPING: _shipping,
    Moment.COMMITTED: _committed,
    Moment.STREAMING: _streaming,
    Moment.DRAIN: _streaming,
    Moment.BETWEEN: _at_once,
    Moment.START: _at_once,
}
