"""How results are shown: tables of one look, and times in milliseconds."""

from __future__ import annotations

from rich.table import Table


def table(title: str, columns: str) -> Table:
    """An empty table. `columns` has the headers, separated by " | "; the second has numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns.split(" | "):
        made.add_column(column, justify="right" if made.columns else "left")
    return made


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"
