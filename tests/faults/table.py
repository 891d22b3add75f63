"""The results as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.faults.cell import Result

_HEAD = (
    "| target | fault | moment | turns failed | not answered | tokens equal | resumed | gap s "
    "| silence s | noticed s | whole s | units | processes | sockets |"
)


def line_of(result: Result) -> str:
    """One cell on one line, for the terminal."""
    name = f"{result.target:8} {result.fault:9} {result.moment:10}"
    if result.left_out:
        return f"{name} left out: {result.left_out}"
    if result.missed:
        return f"{name} MISSED: the moment did not come"
    verdict = "ok " if result.is_good else "BAD"
    left = "".join(
        f" {what}: {found}"
        for what, found in (
            ("ended", result.ended),
            ("units", result.units),
            ("processes", "; ".join(result.processes)),
            ("sockets", "; ".join(result.sockets)),
            ("errors", " / ".join(result.errors)),
        )
        if found
    )
    return (
        f"{name} {verdict} failed {result.num_failed}/{result.num_turns} lost {result.num_lost} "
        f"wrong {result.num_wrong} resumed {result.num_resumed} "
        f"silence {result.silence_s:.1f} of {result.longest_gap_s:.1f} s "
        f"noticed {_seconds(result.detected_s)} whole {_seconds(result.whole_s)} "
        f"in {result.wall_s:.0f} s{left[:600]}"
    )


def markdown(results: Sequence[Result]) -> str:
    """A row for each cell that ran; its worst result if it ran several times."""
    rows: dict[str, Result] = {}
    for result in results:
        if not (result.left_out or result.missed):
            rows[result.cell] = max(rows.get(result.cell, result), result, key=_badness)
    lines = [_HEAD, "|" + " --- |" * (_HEAD.count("|") - 1)]
    return "\n".join([*lines, *(_row(result) for result in rows.values())]) + "\n"


def left_out(results: Sequence[Result]) -> str:
    """The reasons, each with the number of cells."""
    counts: dict[str, int] = {}
    for result in results:
        if result.left_out:
            counts[result.left_out] = counts.get(result.left_out, 0) + 1
    return "".join(f"- {count} cells: {reason}\n" for reason, count in counts.items())


def summary(results: Sequence[Result]) -> str:
    ran = [result for result in results if not (result.left_out or result.missed)]
    noticed = [result.detected_s for result in ran if result.detected_s is not None]
    missed = sum(result.missed for result in results)
    return (
        f"{len(ran)} cells, {sum(r.is_good for r in ran)} good, {missed} missed; "
        f"{sum(r.num_failed for r in ran)} of {sum(r.num_turns for r in ran)} turns failed, "
        f"{sum(r.num_wrong for r in ran)} wrong; "
        f"noticed after {median(noticed):.2f} s (median of {len(noticed)})"
        if noticed
        else f"{len(ran)} cells, {sum(r.is_good for r in ran)} good, {missed} missed"
    )


def write_json(path: Path, results: Sequence[Result]) -> None:
    text = json.dumps([result.as_json() for result in results], indent=1, ensure_ascii=False)
    path.write_text(text + "\n")


def read_json(path: Path) -> list[Result]:
    return [Result(**fields) for fields in json.loads(path.read_text())]


def _badness(result: Result) -> tuple[float, ...]:
    return (not result.is_good, result.num_wrong, result.num_lost, result.num_failed)


def _row(result: Result) -> str:
    columns = (
        *(result.target, result.fault, result.moment),
        f"{result.num_failed} of {result.num_turns}",
        result.num_lost,
        "yes" if not result.num_wrong else f"**no: {result.num_wrong}**",
        result.num_resumed,
        f"{result.longest_gap_s:.1f}",
        f"{result.silence_s:.1f}",
        _seconds(result.detected_s),
        _seconds(result.whole_s),
        "**left**" if result.units else "0",
        len(result.processes),
        len(result.sockets),
    )
    return "| " + " | ".join(map(str, columns)) + " |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
