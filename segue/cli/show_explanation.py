"""The output of `segue explain`: the candidates and their estimated times."""

from __future__ import annotations

import textwrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segue.api.checks import counted
from segue.api.cluster.explanation import CostLine, Explanation, WeighedCandidate
from segue.cli.show import lines_of, natural_width

# The parts of a candidate's expected time, in the order in which a turn passes through them. The
# last one is their sum.
_PARTS = ("queue", "pull", "compute", "move", "hidden", "interference", "overhead", "total")


def explanation_tables(explanation: Explanation, width: int) -> RenderableType:
    """The candidates as a table, or one line each if `width` is too small for it."""
    head = lines_of(
        (
            f"prompt {counted(explanation.prompt_tokens, 'token')}, answer at most "
            f"{explanation.max_tokens}",
            f"decided in {explanation.decision_s * 1e6:.0f} µs",
            "tokens computed/moved, then ms",
        ),
        width,
    )
    table = _candidates(explanation)
    weighed = [table] if natural_width(table) <= width else _candidate_lines(explanation, width)
    return Group(*map(Text, head), *weighed, _outcome(explanation), _speeds(explanation))


def _candidate_lines(explanation: Explanation, width: int) -> list[Text]:
    """The candidates as sums: 22.6 compute + 3.4 overhead = 26.0."""
    lines = []
    for one in explanation.candidates:
        *values, total = _parts(one)
        named = zip(_PARTS, values, strict=False)
        sum_of = " + ".join(f"{value} {part}" for part, value in named if value)
        text = (
            f"{'▶' if one.chosen else ' '} {one.mode} {_path(one)} "
            f"{one.computed_tokens}/{one.moved_tokens}: {sum_of or 0} = {total or 0}"
        )
        if one.excluded:
            text += f" · excluded: {one.excluded.replace('_', ' ')}"
        # The rest of a long line is indented under the workers.
        wrapped = textwrap.wrap(
            text, width, subsequent_indent=" " * 4, break_on_hyphens=False, drop_whitespace=True
        )
        lines += [Text(line, _style(one)) for line in wrapped]
    return lines


def _candidates(explanation: Explanation) -> Table:
    parts = [_parts(one) for one in explanation.candidates]
    # Terminals are narrow, so a part that is 0 everywhere has no column.
    shown = [index for index in range(len(_PARTS)) if any(row[index] for row in parts)]
    table = Table(box=None, pad_edge=False)
    table.add_column("  mode", no_wrap=True)
    table.add_column("workers", no_wrap=True)
    for column in ("tokens", *(_PARTS[index] for index in shown)):
        table.add_column(column, justify="right", overflow="fold")
    if any(one.excluded for one in explanation.candidates):
        table.add_column("excluded", overflow="fold")
    for one, row in zip(explanation.candidates, parts, strict=True):
        table.add_row(
            f"{'▶' if one.chosen else ' '} {one.mode}",
            _path(one),
            f"{one.computed_tokens}/{one.moved_tokens}",
            *(row[index] for index in shown),
            *([one.excluded.replace("_", " ")] if one.excluded else ()),
            style=_style(one),
        )
    return table


def _style(one: WeighedCandidate) -> str:
    return "bold green" if one.chosen else "dim" if one.excluded else ""


def _parts(one: WeighedCandidate) -> list[str]:
    """Each part in milliseconds; empty if it is 0."""
    return [_milliseconds(getattr(one, f"{part}_s")) for part in _PARTS]


def _milliseconds(seconds: float) -> str:
    text = f"{seconds * 1e3:.1f}" if abs(seconds) < 0.1 else f"{seconds * 1e3:.0f}"
    return "" if text in ("0.0", "-0.0") else text


def _path(one: WeighedCandidate) -> str:
    """The path that pages and states take."""
    if one.mode == "local":
        return one.decode_worker
    source = f"{one.source_worker}→" if one.source_worker else ""
    return f"{source}{one.prefill_worker}→{one.decode_worker}"


def _outcome(explanation: Explanation) -> Text:
    actual = explanation.actual_s
    return Text(
        f"first token: {explanation.estimated_s * 1e3:.1f} ms expected, "
        + ("not there yet" if actual is None else f"{actual * 1e3:.1f} ms taken")
    )


def _speeds(explanation: Explanation) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("worker", no_wrap=True)
    for column in ("prefill: ms + µs/token", "move: ms + µs/MiB", "step: ms + µs/turn"):
        table.add_column(column, no_wrap=True)
    for speed in explanation.speeds:
        lines = _line(speed.compute, 1), _line(speed.link, 2**20), _line(speed.step, 1)
        table.add_row(speed.worker_id, *lines)
    return table


def _line(line: CostLine, units: int) -> str:
    return f"{line.fixed * 1e3:.2f} + {line.per_unit * units * 1e6:.1f}"
