"""docs/http.md names every route, and has the fields of today."""

from __future__ import annotations

import re

from scripts.http_fields import PAGE, written
from segue.gateway.app import ROUTES


def test_the_tables_of_fields_are_those_of_the_code() -> None:
    page = PAGE.read_text()

    assert written(page) == page, "run python -m scripts.http_fields"


def test_every_route_is_listed() -> None:
    page = PAGE.read_text()

    for route in ROUTES:
        assert f"{_as_written(route.path)}`" in page, route.path


def test_every_field_says_what_becomes_of_it() -> None:
    for route in ROUTES:
        if route.body is not None:
            rows = list(route.body.table())
            assert {row.status for row in rows} <= {"honoured", "ignored", "refused"}
            assert all(row.note for row in rows if row.status == "refused")


def _as_written(path: str) -> str:
    """`/v1/models/NAME`."""
    return re.sub(r"{(\w+?)(?:_id)?(?::path)?}", lambda found: found[1].upper(), path)
