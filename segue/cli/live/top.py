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

from segue.api.api_key import one_key
from segue.api.cluster.status import ClusterStatus
from segue.api.errors import DeadlineExceeded, Unavailable
from segue.cli.live.frame import Trail, frame
from segue.cli.options import ApiKey, Target, TlsCa, TlsCert, TlsKey, out, tls_of
from segue.sdk.client import DEFAULT_TARGET, Client

EVERY_S = 1.0
_AWAY = (Unavailable, DeadlineExceeded)

Look = Callable[[], Awaitable[ClusterStatus]]


def top(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
) -> None:
    """Watch workers, turns, sessions, queues and throughput, every second. q or Ctrl-C ends it."""
    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def watch() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls, reconnect_s=0.0) as client:
            if once or not out.is_terminal:
                out.print(frame(await client.status(), Trail(), width=out.width))
                return
            with Live(console=out, screen=True, auto_refresh=False) as live, keys() as pressed:
                async for shown in frames(client.status, out, target, pressed):
                    live.update(shown, refresh=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch())


async def frames(
    look: Look, console: Console, target: str, ended: asyncio.Event, every_s: float = EVERY_S
) -> AsyncIterator[RenderableType]:
    """A frame each second until `ended` is set. A router that is away is asked again; the last
    frame stays, and says so."""
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
    """Set when q is pressed. The terminal is as it was afterwards."""
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
        # Nothing: the terminal is gone.
        if not typed or b"q" in typed.lower():
            pressed.set()

    tty.setcbreak(file)
    loop.add_reader(file, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
