"""`python -m benchmarks.gateway`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict

import typer
import uvloop

from benchmarks.gateway.measure import AT_ONCE, SPREAD, Cell, Plan, measure
from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import markdown, show_json
from segue.demo import checkpoint_dir

STREAMS = (1, 16, 64)
# Seconds between a turn's tokens: as a model would send them, and more than can be relayed.
STEPS_S = (0.02, 0.002)
FEWEST_TURNS = 64
"""The fewest turns of a cell. A first token waits for its worker's next step, so a median of few
turns is noise."""
_COLUMNS = (
    "tokens/s of a stream | streams | requests come | client | first token p50 / p99 ms"
    " | token p50 / p99 ms | tokens/s | CPU ms a turn: client, router, gateway"
    " | tokens/s a core of the gateway | all cores busy"
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway")
    parser.add_argument("--model", default=str(checkpoint_dir()))
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--answers", type=int, default=5, help="of each stream")
    parser.add_argument("--processes", type=int, default=1, help="of the gateway, as in [gateway]")
    parser.add_argument("--seed", type=int, default=0, help="of the times when requests come")
    parser.add_argument("--only", choices=["cost", "latency"], help="cost: CPU time alone")
    options = parser.parse_args()
    most, http = STREAMS[-1:], ("HTTP",)
    latency = [
        spread(number, options.answers, options.tokens, options.seed) for number in STREAMS
    ] + [
        Plan(
            streams=most,
            arrivals=AT_ONCE,
            num_answers=options.answers,
            num_tokens=options.tokens,
        )
    ]
    # Almost only requests, and almost only events.
    costs = [
        Plan(streams=most, num_answers=20, num_tokens=1, clients=http),
        Plan(streams=most, num_answers=3, num_tokens=options.tokens, clients=http),
    ]
    cells: list[Cell] = []
    spent: list[Cell] = []
    # The loop of the gateway itself: a slower one would be the slowest process of all.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.only != "cost":
            for step_s in STEPS_S:
                measured = measure(options.model, step_s, latency, gateways=options.processes)
                cells += runner.run(measured)
        if options.only != "latency":
            measured = measure(options.model, STEPS_S[0], costs, gateways=options.processes)
            spent = runner.run(measured)
    if cells:
        typer.echo(f"{table(cells)}\n")
    if spent:
        typer.echo(f"{cost(*spent)}\n")
    show_json(
        {
            "environment": asdict(this_environment()),
            "cells": [asdict(cell) for cell in [*cells, *spent]],
        }
    )


def spread(streams: int, num_answers: int, num_tokens: int, seed: int) -> Plan:
    """Few streams have more answers, with as many tokens in all."""
    more = max(num_answers, FEWEST_TURNS // streams)
    return Plan(
        streams=(streams,),
        arrivals=SPREAD,
        seed=seed,
        num_answers=more,
        num_tokens=max(num_tokens * num_answers // more, 2),
    )


def table(cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        first, token = cell.first_token_s, cell.token_s
        is_http = cell.client == "HTTP"
        names = ("client", "router", "gateway") if is_http else ("client", "router")
        cpu_ms = ", ".join(f"{cell.cpu_s[name] / cell.num_turns * 1e3:.1f}" for name in names)
        a_core = f"{cell.num_tokens / cell.cpu_s['gateway']:,.0f}" if is_http else ""
        several = f", {cell.gateways} gateways" if is_http and cell.gateways > 1 else ""
        row = (
            f"{1 / cell.step_s:.0f}",
            str(cell.streams),
            cell.arrivals,
            cell.client + several,
            f"{first.p50 * 1e3:.1f} / {first.p99 * 1e3:.1f}",
            f"{token.p50 * 1e3:.1f} / {token.p99 * 1e3:.1f}",
            f"{cell.num_tokens / cell.seconds:,.0f}",
            cpu_ms,
            a_core,
            f"{cell.busy:.0%}",
        )
        rows.append(row)
    return markdown(_COLUMNS, rows)


def cost(short: Cell, long: Cell) -> str:
    """CPU time of a request with its first event, and of each further event. `short`: answers of
    one token."""
    names = ("client", "router", "gateway")
    requests, events = ["a request and its first event"], ["a further event"]
    for name in names:
        a_request = short.cpu_s[name] / short.num_turns
        further = long.num_events - long.num_turns
        an_event = (long.cpu_s[name] - a_request * long.num_turns) / further
        requests.append(f"{a_request * 1e6:,.0f}")
        events.append(f"{an_event * 1e6:,.0f}")
    return markdown(" | ".join(("CPU µs of", *names)), (requests, events))


if __name__ == "__main__":
    main()
