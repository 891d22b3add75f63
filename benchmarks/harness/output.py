"""How benchmarks report: progress on stderr; tables and one line of JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from time import monotonic

import typer
from rich.console import Console
from rich.table import Table

Report = Callable[[str], None]
"""Shows the stage that a benchmark is at."""


def progress() -> Report:
    """Writes stages to stderr, with the seconds since this call."""
    started_at = monotonic()
    console = Console(stderr=True, highlight=False)

    def report(stage: str) -> None:
        console.print(f"[dim]{monotonic() - started_at:6.1f} s[/] {stage}", soft_wrap=True)

    return report


def table(title: str, columns: str) -> Table:
    """An empty table. `columns` has the headers, separated by " | "; the second has numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns.split(" | "):
        made.add_column(column, justify="right" if made.columns else "left")
    return made


def show(tables: Iterable[Table], *, width: int, headline: str = "") -> None:
    """`width`: the tables', since a file has none of its own."""
    out = Console(highlight=False, width=width)
    if headline:
        out.print(headline, end="\n\n")
    for number, shown in enumerate(tables):
        if number:
            out.print()
        out.print(shown)


def markdown(columns: str, rows: Iterable[Iterable[str]]) -> str:
    """A table. `columns` has the headers, separated by " | "."""
    rule = " | ".join("---" for _ in columns.split(" | "))
    return "\n".join(f"| {line} |" for line in (columns, rule, *map(" | ".join, rows)))


def show_json(result: object) -> None:
    """The last line of stdout."""
    typer.echo(json.dumps(result))


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"
