"""What may happen to a virtual cluster at any time. Each fault is drawn at random."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from segue.api.types import TurnId
from tests.virtual.clients import Clients
from tests.virtual.cluster import Cluster
from tests.virtual.network import CallFault, Process
from tests.virtual.worker import WorkerLife

Fault = Callable[[Cluster, Clients], object]
"""Returns None if it could not happen to anything."""

# Most are over before a worker is lost, which takes 2 s of silence; the last breaks connections.
_OUTAGES_S = (0.05, 0.2, 0.5, 1.0, 1.0, 3.0, 3.0, 20.0)
_FAULTS_PER_S = 2.0
_CALLS = (
    *("Meet", "Commit", "Abort", "Fence", "Pull"),
    *("ReadPrefix", "Adopt", "MoveSessions", "EndLease", "RenewLease", "LastEpoch"),
)


def kill(cluster: Cluster, clients: Clients) -> object:
    """A worker's process dies, and is started again."""
    if (life := _any_life(cluster)) is None:
        return None
    worker_id = life.presence.identity.worker_id
    cluster.end(worker_id, leaves=False, away_s=cluster.draw.uniform(0.2, 6.0))
    return worker_id


def drain(cluster: Cluster, clients: Clients) -> object:
    """A worker leaves as it does after SIGTERM, and is started again."""
    if (life := _any_life(cluster)) is None or life.is_leaving:
        return None
    life.is_leaving = True
    worker_id = life.presence.identity.worker_id
    cluster.end(worker_id, leaves=True, away_s=cluster.draw.uniform(0.2, 6.0))
    return worker_id


def freeze(cluster: Cluster, clients: Clients) -> object:
    """A worker hangs: SIGSTOP, then SIGCONT."""
    if (life := _any_life(cluster)) is None:
        return None
    cluster.network.freeze(life.process, cluster.draw.choice(_OUTAGES_S))
    return life


def stick(cluster: Cluster, clients: Clients) -> object:
    """A worker's engine hangs in a pass, for a moment or until its process ends."""
    if (life := _any_life(cluster)) is None or life.process.engine_is_stuck:
        return None
    process = life.process
    process.engine_is_stuck = True

    def go_on() -> None:
        process.engine_is_stuck = False

    if (seconds := cluster.draw.choice((0.5, 2.0, None))) is not None:
        asyncio.get_running_loop().call_later(seconds, go_on)
    return life


def restart_router(cluster: Cluster, clients: Clients) -> object:
    """The router dies and is started again. Its clients resume after the tokens that they have."""
    if not cluster.restart_router(cluster.draw.uniform(0.1, 4.0)):
        return None
    clients.disconnect()
    return True


def set_clock(cluster: Cluster, clients: Clients) -> object:
    """The wall clock jumps, mostly back."""
    cluster.clock_ahead_s += cluster.draw.choice((-3600.0, -60.0, -5.0, -1.0, 30.0))
    return True


def silence(cluster: Cluster, clients: Clients) -> object:
    """No message passes between two processes for a while."""
    ends = _any_two(cluster)
    cluster.network.silence(ends, cluster.draw.choice(_OUTAGES_S))
    return ends


def reset(cluster: Cluster, clients: Clients) -> object:
    """All connections between two processes break."""
    ends = _any_two(cluster)
    cluster.network.reset(ends)
    return ends


def spoil_call(cluster: Cluster, clients: Clients) -> object:
    """The next call of a method is lost, not answered, late, or arrives twice."""
    method = cluster.draw.choice(_CALLS)
    fault = cluster.draw.choice(list(CallFault))
    cluster.network.faults[method].append(fault)
    return method


def fail_write(cluster: Cluster, clients: Clients) -> object:
    cluster.written.num_failing += 1
    return True


def corrupt_write(cluster: Cluster, clients: Clients) -> object:
    cluster.written.num_corrupting += 1
    return True


def fail_pass(cluster: Cluster, clients: Clients) -> object:
    """A worker's next pass over a prompt raises."""
    if (life := _any_life(cluster)) is None:
        return None
    life.layers.num_failing = 1
    return life


def cancel(cluster: Cluster, clients: Clients) -> object:
    """A client cancels its turn by its id."""
    if not clients.running:
        return None
    turn_id: TurnId = cluster.draw.choice(clients.running).request.turn_id
    cluster.router.cancel(turn_id)
    return turn_id


def leave(cluster: Cluster, clients: Clients) -> object:
    """A client hangs up."""
    if not clients.running:
        return None
    turn = cluster.draw.choice(clients.running)
    return turn.task.cancel() if turn.task is not None else None


def slow_down(cluster: Cluster, clients: Clients) -> object:
    """All messages take up to a hundred times as long, for a second."""

    def as_before() -> None:
        cluster.network.slowness = 1.0

    cluster.network.slowness = cluster.draw.choice((10.0, 100.0))
    asyncio.get_running_loop().call_later(1.0, as_before)
    return True


def evict(cluster: Cluster, clients: Clients) -> object:
    """All of a worker's cached memory is evicted."""
    if (life := _any_life(cluster)) is None:
        return None
    memory = life.worker._memory
    memory.cache.make_room(memory.pages.total, memory.slots.total)
    return life


FAULTS: dict[Fault, int] = {
    kill: 3,
    stick: 2,
    restart_router: 1,
    set_clock: 1,
    drain: 1,
    freeze: 2,
    silence: 3,
    reset: 4,
    spoil_call: 8,
    fail_write: 2,
    corrupt_write: 2,
    fail_pass: 1,
    cancel: 4,
    leave: 4,
    slow_down: 1,
    evict: 1,
}
"""Each with its weight."""


async def inject(cluster: Cluster, clients: Clients, num_faults: int) -> Counter[str]:
    """Returns how often each fault happened."""
    happened: Counter[str] = Counter()
    draw = cluster.draw
    while happened.total() < num_faults:
        await asyncio.sleep(draw.expovariate(_FAULTS_PER_S))
        (fault,) = draw.choices(list(FAULTS), list(FAULTS.values()))
        if fault(cluster, clients) is not None:
            happened[fault.__name__] += 1
    return happened


def heal(cluster: Cluster) -> None:
    """Ends all faults, so that the cluster can come to rest."""
    cluster.network.faults.clear()
    cluster.written.num_failing = cluster.written.num_corrupting = 0
    for life in cluster.alive():
        life.layers.num_failing = 0
        life.process.engine_is_stuck = False


def _any_life(cluster: Cluster) -> WorkerLife | None:
    alive = cluster.alive()
    return cluster.draw.choice(alive) if alive else None


def _any_two(cluster: Cluster) -> frozenset[Process]:
    processes = cluster.processes()
    return frozenset(cluster.draw.sample(processes, min(2, len(processes))))
