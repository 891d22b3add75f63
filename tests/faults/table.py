"""The results as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.faults.cell import Result
from tests.faults.matrix import Cell, Fault, Moment, Target, cells, why_left_out


def line_of(result: Result) -> str:
    """One cell on one line, for the terminal."""
    name = f"{result.target:8} {result.fault:9} {result.moment:10}"
    if result.left_out:
        return f"{name} left out: {result.left_out}"
    if result.missed:
        return f"{name} MISSED: the moment did not come {' / '.join(result.errors)}"
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
    """A row for each target and fault, a column for each moment, in seconds of silence. If a cell
    ran several times, the worst is shown.
    """
    worst: dict[tuple[str, str, str], Result] = {}
    for result in results:
        if not (result.left_out or result.missed):
            key = result.target, result.fault, result.moment
            worst[key] = max(worst.get(key, result), result, key=_badness)
    head = ["target", "fault", *Moment, "turns failed", "tokens equal", "noticed s", "left behind"]
    lines = [_line(head), _line(["---"] * len(head))]
    for target, fault in dict.fromkeys((target, fault) for target, fault, _ in worst):
        ran = {m: worst[target, fault, m] for m in Moment if (target, fault, m) in worst}
        lines.append(_line([target, fault, *_columns(Target(target), Fault(fault), ran)]))
    return "\n".join(lines) + "\n"


def _columns(target: Target, fault: Fault, ran: Mapping[Moment, Result]) -> Iterator[str]:
    for moment in Moment:
        if (result := ran.get(moment)) is not None:
            yield _silence(result)
        else:
            yield "–" if why_left_out(Cell(target, fault, moment)) else ""
    results = list(ran.values())
    yield f"{sum(r.num_failed for r in results)} of {sum(r.num_turns for r in results)}"
    num_wrong = sum(result.num_wrong for result in results)
    yield f"**{num_wrong} differ**" if num_wrong else "yes"
    noticed = [result.detected_s for result in results if result.detected_s is not None]
    yield f"{median(noticed):.1f}" if noticed else "–"
    yield ", ".join(sorted({what for result in results for what in _left_behind(result)})) or "0"


def _silence(result: Result) -> str:
    text = f"{result.silence_s:.1f}"
    if result.ended:
        return f"ends: {result.ended.partition(':')[0]}"
    if result.num_failed:
        return f"{text}, **{result.num_failed} failed**"
    return text if result.is_good else f"**{text}**"


def _left_behind(result: Result) -> Iterator[str]:
    if result.units:
        yield "units"
    if result.whole_s is None and not result.ended:
        yield "not whole"
    if result.processes:
        yield f"{len(result.processes)} processes"
    if result.sockets:
        yield f"{len(result.sockets)} sockets"


def left_out(results: Sequence[Result]) -> str:
    """The reasons, each with the number of cells."""
    counts = Counter(result.left_out for result in results if result.left_out)
    return "".join(f"- {count} cells: {reason}\n" for reason, count in counts.items())


def summary(results: Sequence[Result]) -> str:
    ran = [result for result in results if not (result.left_out or result.missed)]
    noticed = [result.detected_s for result in ran if result.detected_s is not None]
    missed = sum(result.missed for result in results)
    text = f"{len(ran)} cells, {sum(r.is_good for r in ran)} good, {missed} missed"
    if not noticed:
        return text
    return (
        f"{text}; "
        f"{sum(r.num_failed for r in ran)} of {sum(r.num_turns for r in ran)} turns failed, "
        f"{sum(r.num_wrong for r in ran)} wrong; "
        f"noticed after {median(noticed):.2f} s (median of {len(noticed)})"
    )


def write_json(path: Path, results: Sequence[Result]) -> None:
    text = json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False)
    path.write_text(text + "\n")


def read_json(path: Path) -> list[Result]:
    return [Result(**fields) for fields in json.loads(path.read_text())]


def with_newer(known: Sequence[Result], newer: Sequence[Result]) -> list[Result]:
    """Newer results replace those of the same cell. In the order of the matrix."""
    replaced = {result.cell for result in newer}
    places = {str(cell): place for place, cell in enumerate(cells())}
    results = [result for result in known if result.cell not in replaced] + list(newer)
    return sorted(results, key=lambda result: places.get(result.cell, len(places)))


def _badness(result: Result) -> tuple[float, ...]:
    return (not result.is_good, result.num_wrong, result.num_lost, result.num_failed)


def _line(columns: Iterable[str]) -> str:
    return "| " + " | ".join(columns) + " |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
