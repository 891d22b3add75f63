"""`python -m benchmarks.gateway`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from benchmarks.gateway.measure import Cell, measure
from benchmarks.serving.environment import this_environment
from segue.demo import checkpoint_dir

STREAMS = [1, 16, 64]
# Seconds between a turn's tokens: as a model would send them, and more than can be relayed.
STEPS_S = [0.02, 0.002]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway")
    parser.add_argument("--model", default=str(checkpoint_dir()))
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--answers", type=int, default=10, help="of each stream")
    options = parser.parse_args()
    cells = [
        cell
        for step_s in STEPS_S
        for cell in asyncio.run(
            measure(
                options.model,
                step_s,
                streams=STREAMS,
                num_answers=options.answers,
                num_tokens=options.tokens,
            )
        )
    ]
    sys.stdout.write(table(cells) + "\n")
    result = {
        "environment": asdict(this_environment()),
        "cells": [asdict(cell) for cell in cells],
    }
    sys.stdout.write(json.dumps(result) + "\n")


def table(cells: list[Cell]) -> str:
    rows = [
        "| tokens/s of a stream | streams | client | first token p50 / p99 ms "
        "| token p50 / p99 ms | tokens/s | gateway ms a turn | tokens/s a core of the gateway |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        first, token = cell.first_token_s, cell.token_s
        gateway = "| |"
        if cell.gateway_cpu_s:
            a_turn = cell.gateway_cpu_s / cell.num_turns
            gateway = f"| {a_turn * 1e3:.1f} | {cell.num_tokens / cell.gateway_cpu_s:,.0f} |"
        rows.append(
            f"| {1 / cell.step_s:.0f} | {cell.streams} | {cell.client} "
            f"| {first.p50 * 1e3:.1f} / {first.p99 * 1e3:.1f} "
            f"| {token.p50 * 1e3:.1f} / {token.p99 * 1e3:.1f} "
            f"| {cell.num_tokens / cell.seconds:,.0f} {gateway}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
