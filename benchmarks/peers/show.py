"""Renders a result as tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.table import Table

from benchmarks.harness.output import table
from benchmarks.peers.result import Measured, Result

_GIB = 1 << 30


def headline(result: Result) -> str:
    ceilings = result.ceilings
    return (
        f"{result.model}, {result.threads} threads, {result.environment.cpu}, "
        f"{result.starts} starts of {result.workload.runs} runs, "
        f"commit {result.environment.commit}\n"
        f"reads {ceilings.read_bytes_per_s / 1e9:.1f} GB/s "
        f"(torch's bf16 row {ceilings.bf16_row_bytes_per_s / 1e9:.1f}), multiplies bf16 "
        f"{ceilings.bf16_flops_per_s / 1e12:.2f} and float32 "
        f"{ceilings.float32_flops_per_s / 1e12:.2f} TFLOP/s"
    )


def tables(result: Result) -> Iterator[Table]:
    yield _by_question(result, "Tokens per second, median", _speed)
    yield _by_question(result, "Ratio to the best peer", lambda m: f"{m.best_peer_ratio:.2f}")
    yield _by_question(result, "Share of the ceiling", lambda m: f"{m.ceiling_share:.0%}")
    yield _by_question(
        result, "First token, median ms", lambda m: f"{m.first_token_s.p50 * 1e3:.0f}"
    )
    yield _sides(result)
    if result.decode_lost_in_cluster:
        yield _cluster(result)


def _speed(measured: Measured) -> str:
    return f"{measured.tokens_per_s.p50:.1f}"


def _by_question(result: Result, title: str, cell: Callable[[Measured], str]) -> Table:
    names = list(dict.fromkeys(measured.question for measured in result.measured))
    shown = table(title, " | ".join(("", *names)))
    for side in result.sides:
        of = {m.question: m for m in result.measured if m.side == side.name}
        shown.add_row(side.name, *(cell(of[name]) for name in names))
    return shown


def _sides(result: Result) -> Table:
    shown = table(
        "Processes", " | start, s | memory (PSS), GiB | high water (RSS), GiB | equal tokens"
    )
    for side in result.sides:
        shown.add_row(
            side.name,
            f"{side.start_s:.1f}",
            f"{side.memory.pss_bytes / _GIB:.2f}",
            f"{side.memory.rss_high_bytes / _GIB:.2f}",
            f"{side.equal_first_tokens} of {side.num_compared}" if side.num_compared else "",
        )
    return shown


def _cluster(result: Result) -> Table:
    shown = table("The cluster against the runner", " | value")
    for name, share in result.decode_lost_in_cluster.items():
        shown.add_row(f"{name}: speed lost", f"{share:.1%}")
    for name, added_s in result.first_token_added_s.items():
        shown.add_row(f"{name}: first token later by", f"{added_s * 1e3:.0f} ms")
    return shown
