"""`segue upgrade`: every process of a cluster under `segue serve` restarts, with Ray and Mooncake,
while clients talk to it. No turn fails, and each has the tokens of an undisturbed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from segue.api.cluster.status import ClusterStatus
from segue.api.types import SamplingParams
from segue.sdk.client import Client
from tests.cluster.serving import PATIENCE_S, SETTINGS, Serving, is_whole, serving, wait_until
from tests.cluster.under_load import GrpcSpeaker, HttpSpeaker, differences, speak_until
from tests.cluster.waiting import is_idle, wait_until_idle

pytestmark = pytest.mark.slow

WORKERS = ("prefill-0", "prefill-1", "decode-0", "decode-1")
GATEWAYS = ("gateway", "gateway-1")
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11)
GREEDY = SamplingParams(temperature=0)

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)


async def upgrade(
    target: str, gateways: list[str], *more: str, interrupt_after: int = 0
) -> tuple[int, str]:
    """Its exit status and output. Interrupted after so many restarts."""
    named = [part for gateway in gateways for part in ("--gateway", gateway)]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "segue"),
        *("upgrade", "--target", target, *named, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(10 * PATIENCE_S):
        async for line in process.stdout:
            lines.append(line.decode())
            num_back = sum("all ready again" in line for line in lines)
            if interrupt_after and num_back == interrupt_after:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)
        return await process.wait(), "".join(lines)


@pytest.mark.parametrize(
    ("routers", "options", "decode_ranks"),
    [
        (("router", "router-1"), (), 1),
        # The clients of the only router wait while it restarts.
        (("router",), ("--may-interrupt",), 1),
        (("router", "router-1"), (), 2),
    ],
    ids=["two routers", "one router", "two ranks"],
)
async def test_all_processes_restart_under_load_and_no_turn_fails(
    routers: tuple[str, ...], options: tuple[str, ...], decode_ranks: int, tmp_path: Path
) -> None:
    settings = tmp_path / "ranks.toml"
    settings.write_text(f"{SETTINGS}[decode]\ntensor_parallel = {decode_ranks}\n")
    processes = (*WORKERS, *routers, *GATEWAYS)
    size = ("--prefill", "2", "--decode", "2", "--routers", str(len(routers)), "--gateways", "2")
    with serving(tmp_path, *size, "--config", str(settings)) as cluster:
        # Eight processes take long on a busy machine: a time limit for each stage.
        for stage in ("logs are in", "loading the model in prefill-0", "in decode-0", "to join"):
            await asyncio.to_thread(cluster.wait_for, stage)
        target = await asyncio.to_thread(cluster.address)
        gateways = cluster.wait_for(r"HTTP at (.*), described")[1].split(", ")
        async with Client(target) as client, httpx2.AsyncClient(timeout=120) as http:
            grpc = [GrpcSpeaker(client, 1, GREEDY), GrpcSpeaker(client, 2, SAMPLED)]
            over_http = [HttpSpeaker(http, gateways, 3, 0.0), HttpSpeaker(http, gateways, 4, 0.8)]
            stop = asyncio.Event()
            speaking = asyncio.ensure_future(speak_until(stop, [*grpc, *over_http]))
            started_at = time.monotonic()
            try:
                await restart_in_two_parts(cluster, processes, target, gateways, *options)
            finally:
                took_s = time.monotonic() - started_at
                stop.set()
                await speaking

            turns = [turn for speaker in (*grpc, *over_http) for turn in speaker.turns]
            logger.info(
                "%d turns in %.0f s, longest silence %.2f s, %d requests sent to the other gateway",
                *(len(turns), took_s, max(turn.silent_s for turn in turns)),
                sum(speaker.num_moved for speaker in over_http),
            )
            assert len(turns) > 2 * len(processes)
            assert await differences([*grpc, *over_http]) == []
            status = await wait_until_idle(client)
            assert is_idle(status), status
            assert status.router.failed_turns == 0
        assert await asyncio.to_thread(cluster.end) == 0


def has_all_workers(status: ClusterStatus) -> bool:
    return is_whole(status) and len(status.workers) == len(WORKERS)


async def restart_in_two_parts(
    cluster: Serving, processes: Sequence[str], target: str, gateways: list[str], *options: str
) -> None:
    """The first one is interrupted, the second one goes on with it."""
    exit_status, shown = await upgrade(target, gateways, *options, interrupt_after=2)
    logger.info(shown)
    assert exit_status == 130, shown
    began = re.search(r"--since (\S+)", shown)
    assert began, shown

    # A process that drains when the command is interrupted starts again meanwhile. The next command
    # does not know of a worker that is away just then.
    await asyncio.to_thread(wait_until, target, has_all_workers)
    exit_status, shown = await upgrade(target, gateways, *options, "--since", began[1])
    logger.info(shown)
    assert exit_status == 0, shown
    num_lives = {process: cluster.num_lives(process) for process in processes}
    assert num_lives == dict.fromkeys(processes, 2), shown
