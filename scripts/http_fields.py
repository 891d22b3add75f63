"""Writes the tables of fields in docs/http.md from the code: `python -m scripts.http_fields`.

A test compares them (tests/gateway/test_documented.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from segue.gateway.app import ROUTES
from segue.gateway.http.routes import Route

PAGE = Path(__file__).parents[1] / "docs" / "http.md"
_BLOCK = re.compile(r"(<!-- fields: (\S+) -->\n)(.*?)(<!-- end -->)", re.S)


def written(page: str) -> str:
    """The page with the tables of today. Raises ValueError if a route has none."""
    tables = {route.path: table(route) for route in ROUTES if route.body is not None}
    if missing := tables.keys() - {found[2] for found in _BLOCK.finditer(page)}:
        raise ValueError(f"docs/http.md has no markers for {', '.join(sorted(missing))}")
    return _BLOCK.sub(lambda found: found[1] + tables[found[2]] + found[4], page)


def table(route: Route) -> str:
    assert route.body is not None
    rows = sorted(route.body.table(), key=lambda row: row.status)
    lines = ["| field | | |", "| --- | --- | --- |"]
    lines += [f"| `{row.name}` | {row.status} | {row.note} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
