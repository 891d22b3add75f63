"""`python -m benchmarks.load`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import markdown, show_json
from benchmarks.harness.processes import ROOT
from benchmarks.load.measure import Cell, Relay, Topology, measure_relay, measure_topology
from segue.demo import checkpoint_dir

SESSIONS = [1, 4, 16, 64, 128]
TOPOLOGIES = [
    Topology(prefill=size, decode=size, is_local=is_local)
    for size in (1, 2)
    for is_local in (True, False)
]
# Turns, tokens per answer, concurrent turns.
SHORT = [(1_000, 1, 1), (4_000, 1, 16), (4_000, 1, 64), (4_000, 1, 128), (2_000, 8, 64)]
LONG = [(512, 256, 16), (1_024, 256, 64)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--turns", type=int, default=10_000, help="total for each topology")
    parser.add_argument("--model", default=str(checkpoint_dir()))
    parser.add_argument(
        "--code",
        type=Path,
        default=ROOT,
        help="checkout to run, to compare with an earlier one",
    )
    parser.add_argument("--only", choices=["load", "relay", "http"])
    options = parser.parse_args()
    cells: list[Cell] = []
    relays: list[Relay] = []
    loads = [(topology, False) for topology in TOPOLOGIES] + [(TOPOLOGIES[2], True)]
    for topology, over_http in loads:
        if options.only in (None, "http" if over_http else "load"):
            cells += asyncio.run(
                measure_topology(
                    topology,
                    sessions=SESSIONS,
                    turns=options.turns // len(SESSIONS),
                    model=options.model,
                    code=options.code,
                    over_http=over_http,
                )
            )
            typer.echo(_load_table(cells[-len(SESSIONS) :]))
    if options.only in (None, "relay"):
        for topology, shapes in ((TOPOLOGIES[0], SHORT), (TOPOLOGIES[1], SHORT + LONG)):
            relays += asyncio.run(
                measure_relay(topology, model=options.model, code=options.code, shapes=shapes)
            )
        typer.echo(_relay_table(relays))
    result = {
        "environment": asdict(this_environment()),
        "cells": [asdict(cell) for cell in cells],
        "relays": [asdict(relay) for relay in relays],
    }
    show_json(result)
    failed = sum(sum(cell.failures.values()) for cell in cells)
    sys.exit(failed > 0 or not all(cell.is_idle_after for cell in cells))


def _load_table(cells: list[Cell]) -> str:
    rows = (
        (
            cell.topology,
            str(cell.sessions),
            f"{cell.turns:,}",
            str(sum(cell.failures.values())),
            str(cell.refusals),
            f"{cell.turns / cell.seconds:.0f}",
            f"{cell.first_token_p50_s * 1e3:.0f} / {cell.first_token_p99_s * 1e3:.0f}",
            f"{cell.router_cpu_s / cell.turns * 1e3:.2f}",
            f"{cell.reused_share:.0%}",
            f"{cell.busiest_share:.0%}",
            f"{max(cell.grown_bytes.values()) / 2**20:.1f}",
            "yes" if cell.is_idle_after else "NO",
        )
        for cell in cells
    )
    columns = (
        " | sessions | turns | failed | refused | turns/s | first token p50 / p99 ms"
        " | router ms a turn | reused | busiest decode | grown MiB | adds up"
    )
    failures = [f"{num} × {what}" for cell in cells for what, num in cell.failures.items()]
    return "\n".join([markdown(columns, rows), *failures])


def _relay_table(relays: list[Relay]) -> str:
    return markdown(
        "workers that compute nothing | turns | tokens each | at a time | turns/s | tokens/s"
        " | router ms a turn | tokens/s a core of the router",
        (
            (
                relay.topology,
                f"{relay.turns:,}",
                str(relay.answer_tokens),
                str(relay.concurrent),
                f"{relay.turns / relay.seconds:.0f}",
                f"{relay.turns * relay.answer_tokens / relay.seconds:,.0f}",
                f"{relay.cpu_ms_per_turn:.2f}",
                f"{relay.tokens_per_core_s:,.0f}",
            )
            for relay in relays
        ),
    )


if __name__ == "__main__":
    main()
