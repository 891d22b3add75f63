"""The result as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.harness.output import table
from benchmarks.mtp.coupling import CouplingRow
from benchmarks.mtp.measure import BatchRow


def batch_table(row: BatchRow) -> Table:
    title = f"{row.model}, batch of {row.batch_size}"
    if row.simulate_acceptance is not None:
        title += f", drafts accepted at random ({row.simulate_acceptance:g})"
    else:
        title += f": {row.equal_answers} of {row.num_answers} answers equal those without drafts"
    shown = table(
        title,
        "drafts | tokens/s | speed-up | ceiling | if drafts were free | tokens a step"
        " | accepted, by place | draft + verify + rest, ms | verify | pays above",
    )
    for mode in row.modes:
        shown.add_row(
            mode.mode,
            f"{mode.tokens_per_s:.1f}",
            f"×{mode.speedup:.2f}",
            _times(mode.ceiling),
            _times(mode.free_drafts_ceiling),
            f"{mode.tokens_per_step:.2f}",
            " ".join(f"{share:.0%}" for share in mode.accepted),
            f"{1e3 * mode.draft_s:.2f} + {1e3 * mode.verify_s:.2f} + {1e3 * mode.rest_s:.2f}",
            _times(mode.verify_cost),
            "" if mode.break_even is None else f"{mode.break_even:.2f}",
        )
    return shown


def coupling_table(rows: Sequence[CouplingRow]) -> Table:
    shown = table(
        "First drafts that are accepted when sampled",
        "temperature | rejection sampling, Σ min(p, q) | shared noise | positions × seeds",
    )
    for row in rows:
        shown.add_row(
            f"{row.temperature:g}",
            f"{row.rejection_share:.1%}",
            f"{row.shared_noise_share:.1%}",
            f"{row.num_positions} × {row.num_seeds}",
        )
    return shown


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"×{ratio:.2f}"
