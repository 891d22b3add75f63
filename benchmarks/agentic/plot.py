"""Time to first token and bytes by turn, one line per mode, as a PNG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.agentic.result import ModeResult, Result
from benchmarks.agentic.samples import TurnRow

MIB = 1 << 20


def save_plot(result: Result, path: Path) -> None:
    figure = Figure(figsize=(14, 4), layout="constrained")
    alone, together, moved = figure.subplots(1, 3)
    together.sharey(alone)
    for mode in result.modes:
        _first_token(alone, mode, mode.alone)
        _first_token(together, mode, mode.turns)
        _line(moved, mode, mode.alone, [_moved_mib(row) for row in mode.alone])
    for axes, title in (
        (alone, "time to first token of a session alone, s"),
        (together, f"of {result.workload.sessions} sessions, s: p50, shaded to p90"),
        (moved, "shipped and pulled per turn, MiB"),
    ):
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("turn")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, which="both", alpha=0.2)
    alone.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def _first_token(axes: Axes, mode: ModeResult, rows: tuple[TurnRow, ...]) -> None:
    p50 = [row.first_token_s.p50 for row in rows]
    color = _line(axes, mode, rows, p50)
    p90 = [row.first_token_s.p90 for row in rows]
    axes.fill_between([row.turn for row in rows], p50, p90, color=color, alpha=0.15)


def _line(axes: Axes, mode: ModeResult, rows: tuple[TurnRow, ...], values: list[float]) -> str:
    (line,) = axes.plot([row.turn for row in rows], values, marker=".", label=mode.mode)
    return to_hex(line.get_color())


def _moved_mib(row: TurnRow) -> float:
    return (row.shipped_bytes + row.pulled_bytes) / MIB
