"""Renders a result as tables. Pure: returns rich renderables, prints nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.agentic.emptied import EmptiedRow
from benchmarks.agentic.result import Result
from benchmarks.agentic.samples import TurnRow
from benchmarks.agentic.targets import Target
from benchmarks.harness.output import ms, table

MIB = 1 << 20


def tables(result: Result) -> Iterator[Table]:
    for mode in result.modes:
        yield _turns(f"{mode.mode}, a session alone", mode.alone)
        yield _turns(f"{mode.mode}, {result.workload.sessions} sessions", mode.turns)
    yield _modes(result)
    if result.emptied:
        yield _emptied(result.emptied)
    yield _targets(result.targets)


def _turns(title: str, rows: tuple[TurnRow, ...]) -> Table:
    shown = table(
        f"{title}: by turn, ms, tokens (means) and MiB",
        "turn | first p50 | p90 | p99 | token p50 | queue | prefill | exposed | "
        "prompt | cached | pulled | computed | resident | shipped | back | hits | "
        "at best",
    )
    for row in rows:
        first = row.first_token_s
        shown.add_row(
            str(row.turn),
            *(ms(value) for value in (first.p50, first.p90, first.p99, row.inter_token_s.p50)),
            *(ms(value) for value in (row.queue_s, row.prefill_s, row.exposed_transfer_s)),
            *(
                f"{value:,.0f}"
                for value in (
                    row.prompt_tokens,
                    row.cached_tokens,
                    row.pulled_tokens,
                    row.computed_tokens,
                    row.resident_tokens,
                )
            ),
            f"{row.shipped_bytes / MIB:.2f}",
            f"{row.pulled_bytes / MIB:.2f}",
            f"{row.hit_rate:.1%}",
            f"{row.theoretical_hit_rate:.1%}",
        )
    return shown


def _modes(result: Result) -> Table:
    shown = table(
        "From turn 2 on, ms; the whole run, MiB and tokens",
        "mode | first p50 | p90 | p99 | token p50 | p90 | p99 | shipped | back | "
        "computed | hits | at best",
    )
    for mode in result.modes:
        first, token = mode.later_first_token_s, mode.later_inter_token_s
        shown.add_row(
            mode.mode,
            *(ms(value) for value in (first.p50, first.p90, first.p99)),
            *(ms(value) for value in (token.p50, token.p90, token.p99)),
            f"{mode.shipped_bytes / MIB:,.1f}",
            f"{mode.pulled_bytes / MIB:,.1f}",
            f"{mode.computed_tokens:,}",
            f"{mode.hit_rate:.1%}",
            f"{mode.theoretical_hit_rate:.1%}",
        )
    return shown


def _emptied(rows: tuple[EmptiedRow, ...]) -> Table:
    shown = table(
        "Prefill's cache emptied before the turn, first token, p50 ms",
        "model | prefix | warm | emptied | over warm | expected | without the pull | "
        "pulled | MiB | estimate: move | compute",
    )
    for row in rows:
        shown.add_row(
            row.model,
            f"{row.prefix_tokens:,}",
            ms(row.warm_s),
            ms(row.emptied_s),
            f"×{row.over_warm:.2f}",
            f"×{row.expected_over_warm:.2f}",
            ms(row.recomputed_s),
            f"{row.num_pulled} of {row.num_turns}",
            f"{row.pulled_bytes / MIB:.2f}",
            ms(row.estimated_move_s),
            ms(row.estimated_compute_s),
        )
    return shown


def _targets(targets: tuple[Target, ...]) -> Table:
    shown = table("What was promised", " | bound | measured | ")
    for target in targets:
        shown.add_row(
            target.name, target.bound, f"{target.value:.3g}", "met" if target.is_met else "missed"
        )
    return shown


def headline(result: Result) -> str:
    """The line above the tables."""
    env, load = result.environment, result.workload
    return (
        f"{result.model}; {env.cpu}, {env.cores} cores, load {env.other_load:.1f} at the start; "
        f"commit {env.commit}, {env.date}. {load.sessions} sessions: first {load.first_tokens} "
        f"tokens, then {load.later_turns[0]} to {load.later_turns[1]} turns of {load.new_tokens}, "
        f"answers of {load.answer_tokens}. A page has {result.page_bytes / 1024:.0f} KiB, "
        f"a state {result.slot_bytes / MIB:.2f} MiB."
    )
