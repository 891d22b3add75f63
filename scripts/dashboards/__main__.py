"""Writes deploy/grafana/dashboards."""

from __future__ import annotations

from pathlib import Path

from scripts.dashboards.boards import BOARDS
from scripts.dashboards.grafana import json_of

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in BOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(json_of(dashboard))
