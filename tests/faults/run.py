"""Runs cells one after the other, on one cluster for as long as it stays whole."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segue.sdk.client import Client
from tests.faults.cell import Result, failed, run_cell
from tests.faults.clients.workload import Door, Heard, SdkDoor, undisturbed
from tests.faults.cluster.processes import ProcessCluster
from tests.faults.cluster.running import process_cluster
from tests.faults.matrix import RAY, Cell, Target, why_left_out

if TYPE_CHECKING:
    # It imports Ray's part of the tests.
    from tests.faults.ray_cells import RayStage

# With the start of a cluster, on a busy machine.
_CELL_S = 480.0

OnResult = Callable[[Result], None]


class Runner:
    """Keeps the cluster between cells, and the answers of the undisturbed run."""

    def __init__(self, *, has_gateways: bool = True, logs: Path | None = None) -> None:
        """`logs`: the folder for the processes' logs of bad cells."""
        self._has_gateways = has_gateways
        self._logs = logs
        self._stack = contextlib.AsyncExitStack()
        self._cluster: ProcessCluster | None = None
        self._monitor: Client | None = None
        self._ray: RayStage | None = None
        self._expected: dict[tuple[bool, int], list[Heard]] = {}
        self._salts = (f"faults-{time.time_ns()}-{number}" for number in itertools.count())

    async def run(self, cell: Cell, seed: int) -> Result:
        """Never raises: a run that fails is a result."""
        if reason := why_left_out(cell):
            result = Result.of(cell, seed)
            result.left_out = reason
            return result
        try:
            async with asyncio.timeout(_CELL_S):
                if cell.target in RAY:
                    return await self._run_ray(cell, seed)
                result = await self._run(cell, seed)
                if result.missed:
                    # Nothing was broken. A moment of milliseconds may come again.
                    result = await self._run(cell, seed)
        except Exception as error:
            await self.close()
            return failed(cell, seed, error)
        if not result.is_good and self._logs is not None and self._cluster is not None:
            self._cluster.copy_logs(self._logs / f"{result.cell} {seed}")
        if not result.is_tidy:
            await self.close()
        return result

    async def _run_ray(self, cell: Cell, seed: int) -> Result:
        from tests.faults.ray_cells import RayStage

        if self._ray is None:
            await self.close()
            self._ray = RayStage()
            self._stack.push_async_callback(self._ray.close)
        return await self._ray.run(cell, seed)

    async def _run(self, cell: Cell, seed: int) -> Result:
        if self._cluster is None:
            self._cluster, self._monitor = await self._stack.enter_async_context(
                process_cluster(has_gateways=self._has_gateways)
            )
        cluster, monitor = self._cluster, self._monitor
        assert monitor is not None, "it comes with the cluster"
        is_http = cell.target is Target.GATEWAY
        if (is_http, seed) not in self._expected:
            async with self._door(cluster, is_http=is_http) as door:
                self._expected[is_http, seed] = await undisturbed(door, seed)
        expected = self._expected[is_http, seed]
        async with self._door(cluster, is_http=is_http) as door:
            return await run_cell(cell, cluster, monitor, door, expected, seed)

    @contextlib.asynccontextmanager
    async def _door(self, cluster: ProcessCluster, *, is_http: bool) -> AsyncIterator[Door]:
        salt = next(self._salts)
        if not is_http:
            async with Client(cluster.address) as client:
                yield SdkDoor(client, salt)
            return
        # It takes a second to import.
        from tests.faults.clients.http_door import http_door

        assert self._monitor is not None, "it comes with the cluster"
        model = (await self._monitor.model()).name
        async with http_door(cluster.http_addresses, model, salt) as http:
            yield http

    async def close(self) -> None:
        self._cluster = self._monitor = self._ray = None
        await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()


async def run_all(
    cells: Sequence[Cell], seeds: Sequence[int], on_result: OnResult, *, logs: Path | None = None
) -> list[Result]:
    runner = Runner(logs=logs)
    results = []
    try:
        for seed, cell in itertools.product(seeds, cells):
            results.append(await runner.run(cell, seed))
            on_result(results[-1])
    finally:
        await runner.close()
    return results
