"""`segue top`: its frames, a router that is away, and its end."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from segue.api.cluster.fleet import FleetStatus
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.errors import Unavailable
from segue.api.types import Epoch, Role, WorkerId
from segue.cli.live.frame import Trail, acceptance, frame, spark
from segue.cli.live.top import frames
from tests.cli.conftest import Command
from tests.cli.fake_router import fake_router

ROUTER = RouterStatus(
    address="127.0.0.1:7411",
    running_turns=3,
    finished_turns=70,
    completion_tokens_per_s=1234.0,
    sessions=2,
    pid=7,
    uptime_s=3_725,
    prefill_queue_s=0.25,
    outstanding_handoffs=1,
    turn_tokens_per_s=40.0,
    drafted_tokens=100,
    accepted_tokens=60,
)
PAGES = UnitCounts(total=100, free=50, working=25, cached=25)


def worker(name: str, health: WorkerHealth = WorkerHealth.READY) -> WorkerStatus:
    return WorkerStatus(
        worker_id=WorkerId(name),
        role=Role(name.split("-")[0]),
        epoch=Epoch(1),
        address=f"{name}:1",
        health=health,
        drain_left_s=9.0,
        load=WorkerLoad(
            pages=PAGES, running_turns=2, waiting_turns=1, waiting_tokens=4096, leased_sessions=5
        ),
    )


CLUSTER = ClusterStatus(
    ready=True,
    model="demo",
    model_id="0",
    workers=(worker("decode-0"), worker("prefill-0", WorkerHealth.DRAINING)),
    router=ROUTER,
    fleet=FleetStatus(has_launcher=True, prefill=1, decode=2, changes=("decode-1 starts",)),
)


def text_of(shown: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_frame_shows_workers_load_and_what_the_launcher_does(width: int) -> None:
    shown = text_of(frame(CLUSTER, Trail(), width=width), width)

    assert "ready · demo · router 127.0.0.1:7411, up 1 h 2 min" in shown
    assert "scaling to 1 prefill and 2 decode: decode-1 starts" in shown
    assert "1,234 tokens/s █" in shown
    assert "3 running, 0 waiting, 70 finished, 0 cancelled, 0 failed · 2 sessions" in shown
    assert "queue 250 ms · 1 handoff outstanding · each turn 40 tokens/s or more" in shown
    assert "60% of drafts accepted" in shown
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("decode-0")]
    assert row == ["decode-0", "ready", "2+1", "4,096", "0", "5", "███▒▒▒······", "25%", "-"]
    assert "draining 9 s" in shown


def test_acceptance_is_that_of_the_last_second() -> None:
    before = replace(ROUTER, drafted_tokens=80, accepted_tokens=55)

    assert acceptance(ROUTER, before) == "25% of drafts accepted"
    assert acceptance(ROUTER, ROUTER) == "60% of drafts accepted", "none since: of all"
    restarted = replace(before, pid=8)
    assert acceptance(ROUTER, restarted) == "60% of drafts accepted"
    assert acceptance(replace(ROUTER, drafted_tokens=0, accepted_tokens=0), None) == ""


def test_throughput_is_drawn_to_the_scale_of_its_maximum() -> None:
    assert spark([0, 50, 100, -1]) == " ▄█ "
    assert spark([0, 0]) == ""


async def test_a_router_that_is_away_is_said_and_asked_again() -> None:
    answers: list[ClusterStatus | Unavailable] = [
        Unavailable("nothing listens"),
        CLUSTER,
        Unavailable("nothing listens"),
        CLUSTER,
    ]
    ended = asyncio.Event()

    async def look() -> ClusterStatus:
        answer = answers.pop(0)
        if not answers:
            ended.set()
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    console = Console(width=100)
    shown = [text_of(one) async for one in frames(look, console, ended, every_s=0.0)]

    assert "no answer for 0 s: nothing listens" in shown[0]
    assert "no answer" not in shown[1]
    assert "no answer for 0 s" in shown[2]
    assert "decode-0" in shown[2], "the last frame stays"
    assert "no answer" not in shown[3]


def test_once_prints_one_frame_without_a_terminal(run_here: Command) -> None:
    with fake_router() as router:
        done = run_here("top", "--once", "--target", router.address)

    assert done.returncode == 0, done.stderr
    assert f"ready · demo · router {router.address}" in done.stdout


def test_once_without_a_router_is_an_error(run_here: Command) -> None:
    done = run_here("top", "--once", "--target", "127.0.0.1:1")

    assert done.returncode == 1
    assert done.stderr.startswith("error Unavailable")


@pytest.mark.parametrize("ended_by", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_it_ends_cleanly_in_a_terminal(ended_by: bytes) -> None:
    with fake_router() as router:
        main, terminal = pty.openpty()
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).parent / "segue"), "top"),
                *("--target", router.address),
            ],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(terminal)
        try:
            assert b"tokens/s" in read_until(main, b"tokens/s")
            os.write(main, ended_by)
            assert b"\x1b[?1049l" in read_until(main, b"\x1b[?1049l"), "the screen is restored"
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(main)


def _take_terminal() -> None:
    """Makes the terminal the process's own, so that Ctrl-C in it is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, awaited: bytes) -> bytes:
    seen, deadline_at = b"", time.monotonic() + 30
    while awaited not in seen and time.monotonic() < deadline_at:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
    return seen
