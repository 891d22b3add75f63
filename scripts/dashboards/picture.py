"""Draws a dashboard from a Prometheus as a PNG, where there is no Grafana:
`python -m scripts.dashboards.picture HOST:PORT NAME FILE [--minutes 60] [--interval 1m]`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.dashboards.boards import BOARDS
from scripts.dashboards.panels import Dashboard, Panel

_COLUMNS = 3
_PANEL_INCHES = (5.0, 2.6)
_DOTS_PER_INCH = 72
_MOST_IN_LEGEND = 8
_UNITS = {"short": "", "percentunit": "share", "reqps": "a second"}
"""Grafana's names of units that a reader of a picture would not know."""
_POINTS = 240
_PLACEHOLDER = re.compile(r"{{(\w+)}}")


def draw(
    address: str, dashboard: Dashboard, path: Path, *, minutes: float, interval: str
) -> list[Panel]:
    """Returns the panels without data. `interval`: the window of rates. Raises OSError if
    Prometheus cannot be asked."""
    rows = -(-len(dashboard.panels) // _COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * _COLUMNS, height * rows), layout="constrained")
    figure.suptitle(dashboard.title)
    places = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    empty = [
        panel
        for axes, panel in zip(places, dashboard.panels, strict=False)
        if not _draw(axes, panel, address, minutes, interval)
    ]
    for axes in places[len(dashboard.panels) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=_DOTS_PER_INCH, pil_kwargs={"optimize": True})
    return empty


def _draw(axes: Axes, panel: Panel, address: str, minutes: float, interval: str) -> bool:
    """Returns whether it has data."""
    now = time.time()
    shown = list(_series(panel, address, now - 60 * minutes, now, interval))
    lines: list[tuple[float, Line2D]] = []
    for legend, points in shown:
        at, values = zip(*points, strict=True)
        (line,) = axes.plot([(one - now) / 60 for one in at], values, label=legend)
        lines.append((max(abs(value) for value in values if not math.isnan(value)), line))
    unit = _UNITS.get(panel.unit, panel.unit)
    axes.set_title(f"{panel.title} ({unit})" if unit else panel.title, size=9)
    axes.tick_params(labelsize=7)
    if not shown:
        axes.set_axis_off()
        axes.text(0.5, 0.5, panel.empty_if or "no data", ha="center", transform=axes.transAxes)
        return False
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlim(-minutes, 0)
    axes.set_xlabel("minutes", size=7)
    # Most of many series are 0.
    lines.sort(key=lambda of: of[0], reverse=True)
    named = [line for _, line in lines[:_MOST_IN_LEGEND]]
    axes.legend(handles=named, fontsize=6, loc="upper left")
    return True


def _series(
    panel: Panel, address: str, start: float, end: float, interval: str
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The legend and the points, as time and value, of each series that has some. A value that is
    no number is a gap in its line.
    """
    for query in panel.queries:
        expression = query.expression.replace("$__rate_interval", interval)
        for series in _range(address, expression, start, end):
            points = [(float(at), float(value)) for at, value in series["values"]]
            if not all(math.isnan(value) for _, value in points):
                yield legend_of(query.legend, series["metric"]), points


def legend_of(template: str, labels: dict[str, str]) -> str:
    """As Grafana fills it in."""
    return _PLACEHOLDER.sub(lambda found: labels.get(found[1], ""), template) or str(labels)


def _range(address: str, expression: str, start: float, end: float) -> list[dict[str, Any]]:
    parameters = {"query": expression, "start": start, "end": end, "step": (end - start) / _POINTS}
    url = f"http://{address}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    boards = {board.name: board for board in BOARDS}
    parser = argparse.ArgumentParser(prog="python -m scripts.dashboards.picture")
    parser.add_argument("address", help="of Prometheus, as HOST:PORT")
    parser.add_argument("name", choices=boards)
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--interval", default="1m", help="window of rates")
    given = parser.parse_args(arguments)
    draw(
        given.address,
        boards[given.name],
        given.file,
        minutes=given.minutes,
        interval=given.interval,
    )


if __name__ == "__main__":
    main()
