"""`python -m benchmarks.load`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.load.measure import Cell, Relay, Topology, measure_relay, measure_topology
from benchmarks.serving.environment import this_environment
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
        default=Path(__file__).parents[2],
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
            _say(_load_table(cells[-len(SESSIONS) :]))
    if options.only in (None, "relay"):
        for topology, shapes in ((TOPOLOGIES[0], SHORT), (TOPOLOGIES[1], SHORT + LONG)):
            relays += asyncio.run(
                measure_relay(topology, model=options.model, code=options.code, shapes=shapes)
            )
        _say(_relay_table(relays))
    result = {
        "environment": asdict(this_environment()),
        "cells": [asdict(cell) for cell in cells],
        "relays": [asdict(relay) for relay in relays],
    }
    _say(json.dumps(result))
    failed = sum(sum(cell.failures.values()) for cell in cells)
    sys.exit(failed > 0 or not all(cell.is_idle_after for cell in cells))


def _load_table(cells: list[Cell]) -> str:
    rows = [
        "| | sessions | turns | failed | refused | turns/s | first token p50 / p99 ms "
        "| router ms a turn | reused | busiest decode | grown MiB | adds up |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        rows.append(
            f"| {cell.topology} | {cell.sessions} | {cell.turns:,} | {sum(cell.failures.values())} "
            f"| {cell.refusals} | {cell.turns / cell.seconds:.0f} "
            f"| {cell.first_token_p50_s * 1e3:.0f} / {cell.first_token_p99_s * 1e3:.0f} "
            f"| {cell.router_cpu_s / cell.turns * 1e3:.2f} | {cell.reused_share:.0%} "
            f"| {cell.busiest_share:.0%} | {max(cell.grown_bytes.values()) / 2**20:.1f} "
            f"| {'yes' if cell.is_idle_after else 'NO'} |"
        )
        rows += [f"  {number} × {failure}" for failure, number in cell.failures.items()]
    return "\n".join(rows)


def _relay_table(relays: list[Relay]) -> str:
    rows = [
        "| workers that compute nothing | turns | tokens each | at a time | turns/s | tokens/s "
        "| router ms a turn | tokens/s a core of the router |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for relay in relays:
        tokens_per_s = relay.turns * relay.answer_tokens / relay.seconds
        rows.append(
            f"| {relay.topology} | {relay.turns:,} | {relay.answer_tokens} | {relay.concurrent} "
            f"| {relay.turns / relay.seconds:.0f} | {tokens_per_s:,.0f} "
            f"| {relay.cpu_s_per_turn * 1e3:.2f} | {relay.tokens_per_core_s:,.0f} |"
        )
    return "\n".join(rows)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
