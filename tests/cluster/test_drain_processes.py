"""Drains of whole processes: `segue drain` under `segue serve`, and SIGTERM to a worker."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from router.__main__ import running as running_router
from router.config import RouterConfig
from segue.api.cluster.status import ClusterStatus
from segue.api.types import SessionId
from segue.sdk.client import Client
from tests.cluster.conftest import ENGINE
from tests.cluster.rolling import Talk, num_computed
from tests.cluster.serving import is_whole, serving, wait_until
from tests.cluster.test_leaving import WORKERS, workers
from tests.cluster.waiting import is_idle, wait_until_idle

PAGE = ENGINE.page_tokens

pytestmark = pytest.mark.slow


def segue(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "segue"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_segue_drain_restarts_a_worker_and_its_sessions_go_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--prefill", "1", "--decode", "2") as cluster:
        address = cluster.address()
        talks = [Talk(f"s{number}", seed=number) for number in range(4)]
        asyncio.run(turns(address, talks))
        refused = segue("drain", "prefill-0", "--target", address)
        assert refused.returncode == 1
        assert "got only prefill-0" in " ".join(refused.stderr.split())
        for worker in ("decode-0", "decode-1", "prefill-0"):
            pid = cluster.pid(worker)

            accepts = ["--may-interrupt"] if worker == "prefill-0" else []
            done = segue("drain", worker, *accepts, "--target", address, "--json")
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert report["left"] == {}
            assert (report["moved_sessions"] > 0) == worker.startswith("decode")

            def is_back(status: ClusterStatus, worker: str = worker, pid: int = pid) -> bool:
                pids = {str(w.worker_id): w.pid for w in status.workers}
                return is_whole(status) and len(pids) == 3 and pids[worker] != pid

            # Its sessions need nothing of it.
            if worker.startswith("decode"):
                asyncio.run(turns(address, talks))
                assert max(num_computed(talk.ends[-1]) for talk in talks) <= 20 + PAGE
            wait_until(address, is_back)
            assert cluster.num_lives(worker) == 2
            assert "drain ended" in cluster.log(worker)
        unknown = segue("drain", "decode-7", "--target", address)
        assert unknown.returncode == 1
        assert "no worker is called 'decode-7'; there is decode-0" in unknown.stderr
        assert cluster.end() == 0
        # The end of the whole cluster moves nothing.
        assert cluster.log("decode-0").count("move_sessions=False") == 1


async def turns(address: str, talks: list[Talk]) -> None:
    async with Client(address) as client:
        for talk in talks:
            await talk.turn(client)


async def test_a_worker_that_gets_sigterm_moves_its_sessions(demo: Path, tmp_path: Path) -> None:
    config = RouterConfig(port=0, drain_s=1.0)
    async with (
        running_router(config, str(demo)) as running,
        workers(running.address, demo, tmp_path) as (_, first, second),
        Client(running.address) as client,
    ):
        async with asyncio.timeout(90):
            while not (
                is_whole(status := await client.status()) and len(status.workers) == len(WORKERS)
            ):
                await asyncio.sleep(0.1)
        talks = [Talk(f"s{number}", seed=number) for number in range(4)]
        for talk in talks:
            await talk.turn(client)
        table = running.router.table
        homes = {table.of(SessionId(talk.name)).info().decode_worker for talk in talks}
        assert homes == {"decode-0", "decode-1"}

        first.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(first.wait(), 60) == 0
        for talk in talks:
            assert num_computed(await talk.turn(client)) <= talk.num_new + PAGE
        assert is_idle(await wait_until_idle(client))

        # No other is left: its sessions go with it, at once.
        second.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(second.wait(), 10) == 0
