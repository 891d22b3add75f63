"""`segue serve`: a cluster with its progress shown, and a clean end."""

from __future__ import annotations

import signal
import threading
from time import monotonic
from types import FrameType

from rich.console import Console

from segue.launch.cluster import running_cluster
from segue.launch.config import Config


def serve_until_signal(config: Config, progress: Console, out: Console) -> None:
    """Blocks until SIGTERM or SIGINT. Progress goes to `progress`, one line when ready to `out`.

    A signal during the start raises KeyboardInterrupt, and what was started is stopped.
    """
    stop, is_ready = threading.Event(), threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        if not is_ready.is_set():
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    started_at = monotonic()

    def report(stage: str) -> None:
        progress.print(f"[dim]{monotonic() - started_at:5.1f} s[/] {stage}", soft_wrap=True)

    with running_cluster(config, report) as running:
        settings = config.cluster
        out.print(
            f"ready at {running.address} after {monotonic() - started_at:.1f} s: "
            f"{settings.model}, {settings.prefill} prefill and {settings.decode} decode "
            f"(try: segue chat --target {running.address} 'Hello')",
            soft_wrap=True,
        )
        is_ready.set()
        stop.wait()
    report("stopped")
