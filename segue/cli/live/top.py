"""`segue top`: the cluster, as it changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from segue.api.cluster.status import ClusterStatus
from segue.api.errors import DeadlineExceeded, Unavailable
from segue.cli.live.frame import Trail, frame
from segue.cli.options import Connection, connecting, out

EVERY_S = 1.0
_AWAY = (Unavailable, DeadlineExceeded)

Look = Callable[[], Awaitable[ClusterStatus]]


@connecting
async def top(
    to: Connection,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
) -> None:
    """Watch workers, turns, sessions, queues and throughput, every second. q or Ctrl-C ends it."""
    # Ctrl-C cancels this.
    with contextlib.suppress(asyncio.CancelledError):
        async with to.client() as client:
            if once or not out.is_terminal:
                out.print(frame(await client.status(), Trail(), width=out.width))
                return
            with Live(console=out, screen=True, auto_refresh=False) as live, keys() as pressed:
                async for shown in frames(client.status, out, pressed):
                    live.update(shown, refresh=True)


async def frames(
    look: Look, console: Console, ended: asyncio.Event, every_s: float = EVERY_S
) -> AsyncIterator[RenderableType]:
    """Yields a frame each second until `ended` is set. While the router does not answer, the last
    frame is shown with that error."""
    trail, last = Trail(), None
    seen_at = time.monotonic()
    while not ended.is_set():
        try:
            cluster = await look()
        except _AWAY as error:
            away = f"no answer for {time.monotonic() - seen_at:.0f} s: {error}"
            if last is None:
                yield Text(away, "bold red")
            else:
                yield frame(last, trail, width=console.width, away=away)
        else:
            last, seen_at = cluster, time.monotonic()
            yield frame(cluster, trail, width=console.width)
            trail = trail.after(cluster)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await ended.wait()


@contextlib.contextmanager
def keys() -> Iterator[asyncio.Event]:
    """Yields an event that is set when q is pressed. Restores the terminal afterwards."""
    pressed = asyncio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    loop, before = asyncio.get_running_loop(), termios.tcgetattr(file)

    def read() -> None:
        typed = os.read(file, 64)
        # An empty read: the terminal is gone.
        if not typed or b"q" in typed.lower():
            pressed.set()

    tty.setcbreak(file)
    loop.add_reader(file, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
