"""`python -m benchmarks.placement`: a table, and as the last line of stdout one JSON object."""

from __future__ import annotations

import dataclasses
import gc
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.harness.output import progress, show, show_json, table
from benchmarks.placement.decisions import time_decisions
from benchmarks.placement.policies import POLICIES
from benchmarks.placement.result import Result
from benchmarks.placement.simulate import Simulation
from benchmarks.placement.spread import Spread, measure_spread
from benchmarks.placement.workload import DEFAULT, FULL, QUICK, Scale

_WIDTH = 130
_SMALL = (2, 3, 4, 8, 16)


def main(
    full: Annotated[bool, typer.Option(help="1,000 workers and 100,000 sessions.")] = False,
    quick: Annotated[bool, typer.Option(help="A handful of sessions: does it run?")] = False,
    workers: Annotated[int, typer.Option(help="Half prefill, half decode; 0: by the scale.")] = 0,
    sessions: Annotated[int, typer.Option(help="0: by the scale.")] = 0,
    load: Annotated[float, typer.Option(help="Share of prefill's time; 0: by the scale.")] = 0.0,
    policy: Annotated[str, typer.Option(help="A single policy; empty runs all.")] = "",
    decisions: Annotated[
        bool, typer.Option(help="Only time decisions, by default at the full size.")
    ] = False,
    spread: Annotated[
        bool, typer.Option(help="Only show where new sessions settle on small, idle clusters.")
    ] = False,
) -> None:
    """Agent sessions on simulated workers, placed by the router's policy and by others."""
    chosen = FULL if full else QUICK if quick else DEFAULT
    scale = Scale(
        num_workers=workers or chosen.num_workers,
        num_sessions=sessions or chosen.num_sessions,
        load=load or chosen.load,
    )
    if decisions:
        times = time_decisions(workers or FULL.num_workers, sessions or FULL.num_sessions)
        show_json({"benchmark": "decisions", **dataclasses.asdict(times)})
        return
    if spread:
        _show_spread([measure_spread(size, sessions or 240) for size in _SMALL])
        return
    report = progress()
    results = []
    for name in [policy] if policy else POLICIES:
        results.append(_run(name, scale))
        report(name)
    show([_table(results, scale)], width=_WIDTH)
    show_json(
        {
            "benchmark": "placement",
            "scale": dataclasses.asdict(scale),
            "results": [dataclasses.asdict(result) for result in results],
        }
    )


def _show_spread(spreads: list[Spread]) -> None:
    shown = table(
        f"{spreads[0].num_sessions} new sessions, three shared prefixes, idle workers",
        "decode workers | busiest has | even | prefixes reused | turns that stay",
    )
    for one in spreads:
        shown.add_row(
            str(one.num_decodes),
            f"{one.busiest_share:.1%}",
            f"{one.even_share:.1%}",
            f"{one.shared_prefix_hit_rate:.1%}",
            f"{one.stay_rate:.1%}",
        )
    show([shown], width=_WIDTH)
    show_json({"benchmark": "spread", "results": [dataclasses.asdict(s) for s in spreads]})


def _run(name: str, scale: Scale) -> Result:
    simulation = Simulation(scale, POLICIES[name]())
    # Garbage collection walks the simulation's millions of objects, so it is kept out of the
    # policy's time.
    gc.disable()
    try:
        return simulation.run().result(name)
    finally:
        gc.enable()
        gc.collect()


def _table(results: list[Result], scale: Scale) -> Table:
    title = f"{scale.num_workers:,} workers, {scale.num_sessions:,} sessions, load {scale.load:.2f}"
    shown = table(
        title,
        "policy | decision p50 / p99, µs | hit rate | first turn p50 / p99, s"
        " | later turns p50 / p90 / p99, s | prefill max / mean, CoV | decode max / mean, CoV"
        " | GiB a turn | pulled",
    )
    for one in results:
        shown.add_row(
            one.policy,
            f"{one.decision_p50_us:.0f} / {one.decision_p99_us:.0f}",
            f"{one.hit_rate:.1%}",
            f"{one.first_turn_p50_s:.2f} / {one.first_turn_p99_s:.2f}",
            f"{one.later_turn_p50_s:.3f} / {one.later_turn_p90_s:.3f} / {one.later_turn_p99_s:.3f}",
            f"{one.prefill_max_over_mean:.2f}, {one.prefill_variation:.3f}",
            f"{one.decode_max_over_mean:.2f}, {one.decode_variation:.3f}",
            f"{one.gib_per_turn:.2f}",
            f"{one.pulled_share:.1%}",
        )
    return shown


if __name__ == "__main__":
    typer.run(main)
