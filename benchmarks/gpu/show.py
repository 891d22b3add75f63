"""Renders a result as tables, and as a plot. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from benchmarks.gpu.result import Result
from benchmarks.tables import table


def tables(result: Result) -> Iterator[Table]:
    yield _operators(result)
    yield _passes(result)
    yield _handoffs(result)


def save_plot(result: Result, path: Path) -> None:
    """The share of its ceiling that each operator and pass reaches, as bars."""
    # Not installed on every machine with a GPU, and only needed for a plot.
    from matplotlib.figure import Figure

    bars = [(f"{row.model} {row.operator}, {row.size}", row.share) for row in result.operators]
    bars += [(f"{row.model} {row.kind}, {row.num_tokens}", row.share) for row in result.passes]
    figure = Figure(figsize=(9, 1 + 0.22 * len(bars)), layout="constrained")
    axes = figure.subplots()
    labels, shares = zip(*reversed(bars), strict=True)
    axes.barh(labels, [100 * share for share in shares])
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("% of the ceiling that was measured in the same run")
    axes.set_title(f"{result.device}, {result.environment.date[:10]}", fontsize=10)
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=110)


def _operators(result: Result) -> Table:
    shown = table("Operators", "model | operator | size | us | floor us | share | peer us")
    for row in result.operators:
        peers = ", ".join(f"{name} {seconds * 1e6:.1f}" for name, seconds in row.peers_s.items())
        shown.add_row(
            row.model,
            row.operator,
            row.size,
            f"{row.seconds * 1e6:.1f}",
            f"{row.floor_s * 1e6:.1f}",
            f"{row.share:.0%}",
            peers,
        )
    return shown


def _passes(result: Result) -> Table:
    shown = table("Whole passes", "model | pass | tokens | ms | tokens/s | floor ms | share")
    for row in result.passes:
        shown.add_row(
            row.model,
            row.kind,
            f"{row.num_tokens:,}",
            f"{row.seconds * 1e3:.2f}",
            f"{row.tokens_per_s:,.0f}",
            f"{row.floor_s * 1e3:.2f}",
            f"{row.share:.0%}",
        )
    return shown


def _handoffs(result: Result) -> Table:
    shown = table(
        "Handoff within one GPU",
        "model | tokens | MiB | prefill ms | ship ms | both ms | hidden | exact",
    )
    for row in result.handoffs:
        shown.add_row(
            row.model,
            f"{row.num_tokens:,}",
            f"{row.num_bytes / (1 << 20):.0f}",
            f"{row.prefill_s * 1e3:.1f}",
            f"{row.ship_s * 1e3:.2f}",
            f"{row.both_s * 1e3:.1f}",
            f"{row.hidden_share:.0%}",
            "yes" if row.is_exact else "NO",
        )
    return shown
