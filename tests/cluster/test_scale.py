"""`segue scale`: a cluster under `segue serve` grows from 1P1D to 2P2D and shrinks again while
clients talk to it, with Ray and Mooncake. No turn fails, and each has the tokens of an undisturbed
one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from segue.api.cluster.status import ClusterStatus
from segue.api.types import SamplingParams
from segue.sdk.client import Client
from tests.cluster.serving import PATIENCE_S, serving
from tests.cluster.under_load import GrpcSpeaker, HttpSpeaker, differences, speak_until
from tests.cluster.waiting import is_idle, wait_until_idle

pytestmark = pytest.mark.slow

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11)
GREEDY = SamplingParams(temperature=0)

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)


async def segue(*arguments: str) -> tuple[int, str]:
    """Its exit status and output."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "segue"),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(10 * PATIENCE_S):
        shown, _ = await process.communicate()
    logger.info(shown.decode())
    return process.returncode or 0, shown.decode()


def workers_of(status: ClusterStatus) -> list[str]:
    return [str(worker.worker_id) for worker in status.workers]


async def test_it_grows_and_shrinks_under_load_and_no_turn_fails(tmp_path: Path) -> None:
    # A short slow start: the workers that join are to get turns within the test.
    settings = tmp_path / "scale.toml"
    settings.write_text(
        "[engine]\nnum_threads = 1\ncache_bytes = 67108864\nmax_running = 8\n"
        "[router]\nslow_start_s = 2.0\n"
    )
    with serving(tmp_path, "--config", str(settings)) as cluster:
        for stage in ("logs are in", "loading the model in prefill-0", "in decode-0", "to join"):
            await asyncio.to_thread(cluster.wait_for, stage)
        target = await asyncio.to_thread(cluster.address)
        gateways = cluster.wait_for(r"HTTP at (.*), described")[1].split(", ")
        async with Client(target) as client, httpx2.AsyncClient(timeout=120) as http:
            assert (await client.status()).fleet.has_launcher, "it is ready, so it takes orders"
            grpc = [GrpcSpeaker(client, 1, GREEDY), GrpcSpeaker(client, 2, SAMPLED)]
            over_http = [HttpSpeaker(http, gateways, 3, 0.0), HttpSpeaker(http, gateways, 4, 0.8)]
            stop = asyncio.Event()
            speaking = asyncio.ensure_future(speak_until(stop, [*grpc, *over_http]))
            started_at = time.monotonic()
            try:
                size = ("--prefill", "2", "--decode", "2")
                assert (await segue("scale", "--target", target, *size))[0] == 0
                grown = await client.status()
                await new_conversations(grpc, 3)
                used = await client.status()
                size = ("--prefill", "1", "--decode", "1")
                assert (await segue("scale", "--target", target, *size))[0] == 0
                shrunk = await client.status()
                await new_conversations(grpc, 1)
            finally:
                took_s = time.monotonic() - started_at
                stop.set()
                await speaking

            assert workers_of(grown) == ["decode-0", "decode-1", "prefill-0", "prefill-1"]
            assert [len(workers_of(shrunk)), shrunk.fleet.changes] == [2, ()]
            joined = {w.worker_id: w for w in used.workers}["decode-1"]
            assert joined.load.leased_sessions > 0, "the worker that joined got no session"
            moved = [int(n) for n in re.findall(r"(\d+) sessions moved", cluster.text())]
            turns = [turn for speaker in (*grpc, *over_http) for turn in speaker.turns]
            logger.info(
                "%d turns in %.0f s, longest silence %.2f s, %d sessions moved",
                *(len(turns), took_s, max(turn.silent_s for turn in turns), sum(moved)),
            )
            assert sum(moved) > 0, cluster.text()
            assert await differences([*grpc, *over_http]) == []
            status = await wait_until_idle(client)
            assert is_idle(status), status
            assert status.router.failed_turns == 0
        assert await asyncio.to_thread(cluster.end) == 0
        assert "died" not in cluster.text(), cluster.text()


async def new_conversations(speakers: list[GrpcSpeaker], count: int) -> None:
    """Waits until the speakers have had some more turns, in conversations that started since."""
    wanted = [len(speaker.turns) + 12 * count for speaker in speakers]
    async with asyncio.timeout(10 * PATIENCE_S):
        while any(len(s.turns) < n for s, n in zip(speakers, wanted, strict=True)):
            await asyncio.sleep(0.1)
