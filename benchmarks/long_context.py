"""`python -m benchmarks.long_context`: passes after contexts of 1k to 64k tokens, on a CPU.

A pass of 512 prompt tokens and a decode step, each after a context whose pages and state are in the
cache (with zeros: the time does not depend on their numbers). Prints a table, writes a plot, and as
the last line of stdout one JSON object.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.harness.ceilings import Ceilings, measure_ceilings
from benchmarks.harness.environment import Environment, this_environment
from benchmarks.harness.output import show, show_json, table
from benchmarks.harness.samples import median, times_s
from benchmarks.harness.turns import decode_chunk
from benchmarks.peers.process import peak_rss_bytes, reset_peak_rss
from benchmarks.peers.shape import checkpoint
from segue.engine.batch import PrefillChunk
from segue.engine.config import EngineConfig
from segue.engine.packing import pack
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel

_PASS_TOKENS = 512
_CONTEXTS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
_QUICK_CONTEXTS = (1024, 4096)
_PACKED_ONLY = 131_072
"""Also packed, which needs no pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    context_tokens: int
    prefill_s: float
    """A pass of 512 tokens after the context."""
    decode_s: float
    pack_s: float
    """The part of a decode step outside the model: from page lists to tensors."""
    kv_bytes: int
    """The context's keys and values, which a step must read beside the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    environment: Environment
    threads: int
    ceilings: Ceilings
    weight_bytes: int
    pool_bytes: int
    peak_rss_bytes: int
    base_rss_bytes: int
    """Before the weights were loaded: Python, torch and its libraries."""
    rows: tuple[Row, ...]
    pack_128k_s: float
    growth_bytes_per_s: float
    """Bytes of keys and values over the time that a decode step takes longer, from the shortest to
    the longest context."""

    @property
    def memory_share(self) -> float:
        """Peak memory without the libraries, over weights and pools."""
        peak = self.peak_rss_bytes - self.base_rss_bytes
        return peak / (self.weight_bytes + self.pool_bytes)


class Passes:
    """One sequence in a cache for the longest context."""

    def __init__(self, folder: Path, max_context: int) -> None:
        served = ServedModel.of(folder, EngineConfig())
        self._page_tokens = served.layout.page_tokens
        num_pages = served.layout.num_pages_for(max_context + _PASS_TOKENS)
        self.runner = ModelRunner.load(served, num_pages=num_pages, num_slots=1)
        layout = self.runner.layout
        self.pool_bytes = num_pages * layout.page_bytes + layout.slot_bytes
        self._page_ids = list(range(num_pages))
        self.kv_bytes_per_token = layout.page_bytes // layout.page_tokens

    def row(self, context: int, repeats: int) -> Row:
        decode = decode_chunk(7, context, self._page_ids)
        prompt = PrefillChunk(
            token_ids=list(range(_PASS_TOKENS)),
            start=context,
            page_ids=self._page_ids,
            slot_in=0,
            slot_out=0,
        )
        return Row(
            context_tokens=context,
            prefill_s=median(times_s(lambda: self.runner.forward([prompt]), 1)),
            decode_s=median(times_s(lambda: self.runner.forward([decode]), repeats)),
            pack_s=self.pack_s(context),
            kv_bytes=context * self.kv_bytes_per_token,
        )

    def pack_s(self, context: int) -> float:
        chunk = decode_chunk(7, context, list(range(context // self._page_tokens + 1)))
        return median(
            times_s(lambda: pack([chunk], page_tokens=self._page_tokens, device="cpu"), repeats=20)
        )


def measure(folder: Path, *, contexts: Sequence[int], threads: int, repeats: int) -> Result:
    environment = this_environment()
    torch.set_num_threads(threads)
    # Making the checkpoint takes memory too.
    reset_peak_rss()
    base = peak_rss_bytes()
    passes = Passes(folder, max(contexts))
    rows = [passes.row(context, repeats) for context in contexts]
    peak = peak_rss_bytes()
    # After the peak is read, since it takes memory itself.
    ceilings = measure_ceilings()
    first, last = rows[0], rows[-1]
    return Result(
        environment=environment,
        threads=threads,
        ceilings=ceilings,
        weight_bytes=passes.runner.weight_bytes,
        pool_bytes=passes.pool_bytes,
        peak_rss_bytes=peak,
        base_rss_bytes=base,
        rows=tuple(rows),
        pack_128k_s=passes.pack_s(_PACKED_ONLY),
        growth_bytes_per_s=(last.kv_bytes - first.kv_bytes) / (last.decode_s - first.decode_s),
    )


def passes_table(result: Result) -> Table:
    shown = table(
        "One pass after a context",
        "context | 512 tokens, s | tokens/s | decode, ms | read, GB/s | pack, ms",
    )
    for row in result.rows:
        num_bytes = result.weight_bytes + row.kv_bytes
        shown.add_row(
            f"{row.context_tokens:,}",
            f"{row.prefill_s:.2f}",
            f"{_PASS_TOKENS / row.prefill_s:.0f}",
            f"{row.decode_s * 1e3:.0f}",
            f"{num_bytes / row.decode_s / 1e9:.1f}",
            f"{row.pack_s * 1e3:.2f}",
        )
    return shown


def save_plot(result: Result, path: Path) -> None:
    """Measured times, and those that the ceiling gives for the bytes that grow."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    prefill, decode = figure.subplots(1, 2)
    contexts = [row.context_tokens for row in result.rows]
    prefill.plot(contexts, [_PASS_TOKENS / row.prefill_s for row in result.rows], marker=".")
    prefill.set_title("512 prompt tokens after a context, tokens/s", fontsize=10)
    decode.plot(contexts, [row.decode_s * 1e3 for row in result.rows], marker=".", label="measured")
    first = result.rows[0]
    rate = result.ceilings.read_bytes_per_s
    expected = [first.decode_s + (row.kv_bytes - first.kv_bytes) / rate for row in result.rows]
    decode.plot(contexts, [s * 1e3 for s in expected], "--", label="keys and values at the ceiling")
    decode.set_title("decode step, ms", fontsize=10)
    decode.legend(fontsize=8)
    for axes in (prefill, decode):
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("context, tokens")
        axes.grid(visible=True, alpha=0.2)
    figure.savefig(path, dpi=100)


def main(
    models: Annotated[
        Path, typer.Option(help="Folder of the checkpoints, which are made on first use.")
    ] = Path("/tmp/segue-peers"),
    threads: Annotated[int, typer.Option(min=1)] = 2,
    plot: Annotated[Path | None, typer.Option(help="Where to write the plot, a PNG.")] = None,
    quick: Annotated[bool, typer.Option(help="A tiny model, two contexts: does it run?")] = False,
) -> None:
    """Growth of prefill and decode with the context, for 752 M bf16 weights."""
    models.mkdir(parents=True, exist_ok=True)
    folder = checkpoint(models, is_quick=quick)
    contexts = _QUICK_CONTEXTS if quick else _CONTEXTS
    result = measure(folder, contexts=contexts, threads=threads, repeats=3 if quick else 5)
    show([passes_table(result)], width=110)
    typer.echo(
        f"keys and values are read at {result.growth_bytes_per_s / 1e9:.1f} GB/s (the machine: "
        f"{result.ceilings.read_bytes_per_s / 1e9:.1f}); peak memory is {result.memory_share:.2f} "
        f"of weights and pools; packing 128k tokens takes {result.pack_128k_s * 1e3:.2f} ms"
    )
    with tempfile.TemporaryDirectory() as scratch:
        save_plot(result, plot or Path(scratch) / "plot.png")
    show_json({**dataclasses.asdict(result), "memory_share": result.memory_share})


if __name__ == "__main__":
    typer.run(main)
