"""Random faults in virtual time, in many small clusters one after the other."""

from __future__ import annotations

import asyncio
import time

from tests.virtual.clients import Clients, Report
from tests.virtual.clock import run
from tests.virtual.cluster import running_cluster
from tests.virtual.faults import heal, inject

FAULTS_PER_CLUSTER = 100
NUM_SESSIONS = 6
# No client waits longer than its deadline, and then for its place in the loop.
_ALL_END_S = 120.0


async def one_cluster(seed: int, num_faults: int) -> Report:
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    async with running_cluster(seed) as cluster:
        clients = Clients(cluster, NUM_SESSIONS)
        report = clients.report
        report.faults = await inject(cluster, clients, num_faults)
        heal(cluster)
        try:
            async with asyncio.timeout(_ALL_END_S):
                await clients.stop()
        except TimeoutError:
            report.wrongs.append(f"hung: {[turn.request.turn_id for turn in clients.running]}")
        report.wrongs += await cluster.rest()
        # The cluster still answers.
        last = await clients.turn("last", (1, 2, 3), num_tokens=4, deadline_s=10.0)
        if last.end is None:
            report.wrongs.append(f"after its rest it does not answer: {last.error!r}")
        report.wrongs += cluster.unhandled
    left = asyncio.all_tasks() - {asyncio.current_task()}
    report.wrongs += [f"left running: {task}" for task in left]
    report.virtual_s = loop.time() - started_at
    return report


def campaign(num_faults: int, seed: int) -> Report:
    """Stops at the first cluster in which something is wrong."""
    total = Report()
    while (left := num_faults - total.faults.total()) > 0 and not total.wrongs:
        started_at = time.perf_counter()
        one = run(one_cluster(seed, min(left, FAULTS_PER_CLUSTER)))
        one.real_s = time.perf_counter() - started_at
        one.wrongs = [f"seed {seed}: {wrong}" for wrong in one.wrongs]
        total.add(one)
        seed += 1
    return total
