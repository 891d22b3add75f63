"""An agent's turns, as tables and as plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from benchmarks.agents.cluster import Turn
from benchmarks.agents.run import AgentRun
from benchmarks.harness.output import table

_KIB = 1024


def agents_table(runs: Iterable[tuple[str, Sequence[AgentRun]]]) -> Table:
    """A row for each turn of each agent, numbered by task and turn."""
    shown = table(
        "turns of agents",
        "agent | turn | prompt | answer | computed | reused | re-rendered | shipped | first token",
    )
    for name, tasks in runs:
        rows = []
        for task, run in enumerate(tasks, 1):
            rows += [(f"{task}, aside", turn) for turn in run.side_requests]
            rows += [(f"{task}.{number}", turn) for number, turn in enumerate(run.conversation, 1)]
        for index, (number, turn) in enumerate(rows):
            shown.add_row(name if index == 0 else "", number, *_cells(turn))
    return shown


def numbers_of(turn: Turn) -> dict[str, Any]:
    if turn.end is None:
        return {"failed": True}
    usage = turn.end.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "computed_tokens": usage.prompt_tokens - usage.cached_tokens - usage.pulled_tokens,
        "resident_tokens": usage.resident_tokens,
        "rerendered_tokens": usage.rerendered_tokens,
        "shipped_bytes": usage.shipped_bytes,
        "first_token_s": turn.end.timings.first_token_s,
    }


def _cells(turn: Turn) -> list[str]:
    numbers = numbers_of(turn)
    if turn.end is None:
        return ["failed"]
    reused = 1 - numbers["computed_tokens"] / numbers["prompt_tokens"]
    return [
        f"{numbers['prompt_tokens']:,}",
        str(numbers["completion_tokens"]),
        f"{numbers['computed_tokens']:,}",
        f"{reused:.1%}",
        str(numbers["rerendered_tokens"]),
        f"{numbers['shipped_bytes'] / _KIB:,.0f} KiB",
        f"{numbers['first_token_s'] * 1e3:,.0f} ms",
    ]
