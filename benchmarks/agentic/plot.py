"""Time to first token and bytes by turn, one line per mode, as a PNG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.agentic.result import Result

MIB = 1 << 20


def save_plot(result: Result, path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    seconds, moved = figure.subplots(1, 2)
    for mode in result.modes:
        turns = [row.turn for row in mode.turns]
        (line,) = seconds.plot(
            turns, [row.first_token_s.p50 for row in mode.turns], marker=".", label=mode.mode
        )
        seconds.fill_between(
            turns,
            [row.first_token_s.p50 for row in mode.turns],
            [row.first_token_s.p90 for row in mode.turns],
            color=line.get_color(),
            alpha=0.15,
        )
        moved.plot(
            turns,
            [(row.shipped_bytes + row.pulled_bytes) / MIB for row in mode.turns],
            marker=".",
            label=mode.mode,
        )
    for axes, title in (
        (seconds, "time to first token, s: p50, shaded to p90"),
        (moved, "shipped and pulled per turn, MiB"),
    ):
        axes.set_yscale("log")
        axes.set_xlabel("turn")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, which="both", alpha=0.2)
    seconds.legend(fontsize=8)
    figure.savefig(path, dpi=120)
