"""Which of the two engines a decode worker runs. They take the same commands and say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from decode_worker.ahead import AheadEngine
from decode_worker.config import DecodeConfig
from decode_worker.engine import DecodeEngine
from decode_worker.events import Event
from decode_worker.metrics import DecodeMetrics
from segue.engine.launcher import Launcher
from segue.engine.runner import ModelRunner
from segue.telemetry import Clock


def engine_for(
    runner: ModelRunner,
    launcher: Launcher | None,
    metrics: DecodeMetrics,
    publish: Callable[[Sequence[Event]], None],
    config: DecodeConfig,
    *,
    num_rows: int,
    clock: Clock,
) -> AheadEngine | DecodeEngine:
    """`launcher` launches steps ahead, for at most `num_rows` sequences; without one the host
    drives each step.
    """
    if launcher is None:
        return DecodeEngine(runner, metrics, publish, config, clock=clock)
    return AheadEngine(runner, launcher, metrics, publish, config, num_rows=num_rows, clock=clock)
