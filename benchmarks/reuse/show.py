"""A sweep's results, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from benchmarks.harness.output import table
from benchmarks.reuse.pressure import Pressure
from benchmarks.reuse.sweep import PAGE_TOKENS, Reuse


class Sweep(NamedTuple):
    template: str
    thinking: str
    turns: Sequence[Reuse]


def sweep_table(sweeps: Sequence[Sweep]) -> Table:
    """A row for each template, a column for each length of the first prompt modulo the page: the
    second turn's cached tokens, and its bound if that is larger.
    """
    lengths = " | ".join(map(str, range(PAGE_TOKENS)))
    shown = table(
        "second turn: cached tokens (/ bound where missed), by the first prompt's length mod "
        f"{PAGE_TOKENS}; all turns: missed / number",
        f"template | think | {lengths} | all turns",
    )
    for sweep in sweeps:
        second = {t.first_tokens % PAGE_TOKENS: t for t in sweep.turns if t.turn == 2}
        cells = [_cell(second.get(rest)) for rest in range(PAGE_TOKENS)]
        missed = sum(turn.missed_tokens > 0 for turn in sweep.turns)
        all_turns = f"{missed} / {len(sweep.turns)}"
        shown.add_row(sweep.template, sweep.thinking, *cells, all_turns)
    return shown


def pressure_table(pressures: Sequence[Pressure]) -> Table:
    shown = table(
        "sessions in turn, in few slots",
        "slots | sessions | turns | missed turns | tokens missed a turn",
    )
    for pressure in pressures:
        num_turns = len(pressure.turns)
        shown.add_row(
            str(pressure.num_slots),
            str(pressure.num_sessions),
            str(num_turns),
            str(pressure.missed_turns),
            f"{pressure.missed_tokens / num_turns:.1f}",
        )
    return shown


def _cell(turn: Reuse | None) -> str:
    if turn is None:
        return ""
    missed = turn.cached_tokens < turn.bound
    return f"{turn.cached_tokens}/{turn.bound}" if missed else str(turn.cached_tokens)
