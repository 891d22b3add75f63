"""Injects a fault, and undoes it after its time."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal

from tests.faults.cluster.network import Network, Pair, pair_of
from tests.faults.cluster.processes import CLIENT, GATEWAY, ROUTER, ProcessCluster, Supervised
from tests.faults.cluster.worker import CORRUPT, FAIL, STUCK
from tests.faults.matrix import NETWORK, Cell, Fault, Moment, Target
from tests.faults.moments import Where

FAULT_S = 5.0
"""How long a network or a disk fails."""
_AT_ONCE = (Fault.RESET, Fault.DUPLICATE)
LATE_S = 0.3
STOPPED_S = {Fault.STOP_3: 3.0, Fault.STOP_20: 20.0}
# After SIGTERM, and after a process's birth: in the middle of its drain or start.
_INTO_DRAIN_S = 0.1
_INTO_START_S = 0.3
_LOOK_EVERY_S = 0.005


def victim_of(cell: Cell, where: Where) -> str:
    """The process that is struck; of a handoff, the one that writes."""
    return {
        Target.ROUTER: ROUTER,
        Target.GATEWAY: GATEWAY,
        Target.DECODE: where.decode,
    }.get(cell.target, where.prefill)


def _pair(cell: Cell, where: Where) -> Pair:
    match cell.target:
        case Target.ROUTER:
            return pair_of(CLIENT, ROUTER)
        case Target.HANDOFF:
            return pair_of(where.prefill, where.decode)
        case _:
            return pair_of(ROUTER, victim_of(cell, where))


async def lead_in(cell: Cell, cluster: ProcessCluster, where: Where) -> None:
    """Puts the victim into its drain or its start."""
    victim = cluster[victim_of(cell, where)]
    if cell.moment is Moment.DRAIN:
        victim.signal(signal.SIGTERM)
        await asyncio.sleep(_INTO_DRAIN_S)
    elif cell.moment is Moment.START:
        before = victim.pid
        victim.signal(signal.SIGKILL)
        while victim.pid == before:
            await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.sleep(_INTO_START_S)


def strike(cell: Cell, cluster: ProcessCluster, where: Where) -> asyncio.Task[None]:
    """Returns when the fault is there. The task ends when it has been undone."""
    victim = cluster[victim_of(cell, where)]
    if cell.fault in NETWORK:
        _break_network(cell.fault, cluster.network, _pair(cell, where))
        if cell.fault in _AT_ONCE:
            return asyncio.create_task(asyncio.sleep(0))
        return asyncio.create_task(_mend(cluster.network, _pair(cell, where)))
    match cell.fault:
        case Fault.KILL:
            victim.signal(signal.SIGKILL)
        case Fault.TERM:
            victim.signal(signal.SIGTERM)
        case Fault.STOP_3 | Fault.STOP_20:
            victim.signal(signal.SIGSTOP)
            return asyncio.create_task(_continue(victim, victim.pid, STOPPED_S[cell.fault]))
        case Fault.WRITE:
            victim.hold.break_next(FAIL)
        case Fault.CHECKSUM:
            victim.hold.break_next(CORRUPT)
        case Fault.STUCK:
            victim.hold.break_next(STUCK)
        case Fault.DISK:
            return asyncio.create_task(_fill_disk(victim.pid))
    return asyncio.create_task(asyncio.sleep(0))


def _break_network(fault: Fault, network: Network, pair: Pair) -> None:
    match fault:
        case Fault.CUT:
            network.cut(pair)
        case Fault.DELAY:
            network.delay(pair, LATE_S)
        case Fault.HALF_OPEN:
            network.silence(pair)
        case Fault.RESET:
            network.reset(pair)
        case Fault.DUPLICATE:
            network.duplicate(pair)


async def _mend(network: Network, pair: Pair) -> None:
    await asyncio.sleep(FAULT_S)
    network.mend(pair)


async def _continue(victim: Supervised, pid: int, after_s: float) -> None:
    await asyncio.sleep(after_s)
    if victim.pid == pid:
        victim.signal(signal.SIGCONT)


async def _fill_disk(pid: int) -> None:
    """No file may grow, as on a full disk; the process gets EFBIG in place of ENOSPC."""
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        await asyncio.sleep(FAULT_S)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
