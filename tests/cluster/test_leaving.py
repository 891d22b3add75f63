"""Workers that stop and workers that are killed: what the router still knows about them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.__main__ import running as running_router
from router.config import RouterConfig
from router.router import Router
from segue.api.cluster.status import WorkerHealth
from segue.api.types import SessionId, StopConditions, TokenInput, WorkerId
from segue.sdk.client import Client
from tests.cluster.waiting import wait_until_ready

SETTINGS = "[engine]\nnum_threads = 1\ncache_bytes = 67108864\nmax_running = 8\n"
WORKERS = ["prefill-0", "decode-0", "decode-1"]


@contextlib.asynccontextmanager
async def workers(router_address: str, model: Path, folder: Path) -> AsyncIterator[list[Process]]:
    """Each is a separate process, as an operator starts it without Ray."""
    settings = folder / "segue.toml"
    settings.write_text(SETTINGS)
    started: list[Process] = []
    try:
        for name in WORKERS:
            arguments = ("--id", name, "--model", str(model), "--router", router_address)
            started.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    f"{name.split('-')[0]}_worker",
                    *arguments,
                    "--config",
                    str(settings),
                    stderr=DEVNULL,
                )
            )
        yield started
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def healths(client: Client) -> dict[str, WorkerHealth]:
    return {str(w.worker_id): w.health for w in (await client.status()).workers}


async def wait_until_healths_are(client: Client, **expected: WorkerHealth) -> None:
    wanted = {name.replace("_", "-"): health for name, health in expected.items()}
    async with asyncio.timeout(60):
        while await healths(client) != wanted:
            await asyncio.sleep(0.05)


async def wait_until_lost_are(router: Router, num_workers: int) -> None:
    """Waits until the metric for lost workers has this value, as an alert would see it."""
    labels = {"role": "decode", "health": "lost"}
    async with asyncio.timeout(60):
        while True:
            router.watch()
            if router._metrics.registry.get_sample_value("segue_workers", labels) == num_workers:
                return
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_stopped_worker_is_removed_and_a_killed_one_is_forgotten_later(
    demo: Path, tmp_path: Path
) -> None:
    ready, lost = WorkerHealth.READY, WorkerHealth.LOST
    config = RouterConfig(port=0, forget_lost_s=1.5, drain_s=1.0)
    async with (
        running_router(config, str(demo)) as running,
        workers(running.address, demo, tmp_path) as (_, first, second),
        Client(running.address) as client,
    ):
        await wait_until_ready(client, len(WORKERS))
        for number in range(4):
            await client.generate(
                TokenInput((5, 6, 7 + number)),
                session_id=SessionId(f"session-{number}"),
                stop=StopConditions(max_tokens=3, ignore_eos=True),
            )

        first.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(first.wait(), 60) == 0
        # Its leave arrived before its process ended, so it was never lost.
        assert await healths(client) == {"prefill-0": ready, "decode-1": ready}
        assert WorkerId("decode-0") not in running.router.placing.cluster.nodes

        os.kill(second.pid, signal.SIGKILL)
        await wait_until_healths_are(client, prefill_0=ready, decode_1=lost)
        await wait_until_lost_are(running.router, 1)
        await wait_until_healths_are(client, prefill_0=ready)
        await wait_until_lost_are(running.router, 0)
        assert list(running.router.placing.cluster.nodes) == ["prefill-0"]
