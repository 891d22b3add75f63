"""Writes the dashboards to deploy/grafana/dashboards, as Grafana's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.dashboards.boards import BOARDS
from scripts.dashboards.panels import Dashboard, Panel

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def json_of(dashboard: Dashboard) -> str:
    panels = [_panel(panel, index) for index, panel in enumerate(dashboard.panels)]
    whole = {
        "uid": f"segue-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["segue"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "tags": ["segue"],
                "asDropdown": True,
                "title": "Segue",
                "keepTime": True,
            }
        ],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "label": "Source",
                }
            ]
        },
        "panels": panels,
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel(panel: Panel, index: int) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    empty = f"Empty if {panel.empty_if}." if panel.empty_if else ""
    return {
        "id": index + 1,
        "title": panel.title,
        "description": " ".join(filter(None, (panel.explains, empty))),
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": None if "error" in panel.title.lower() else 0,
                **({"noValue": panel.empty_if} if panel.empty_if else {}),
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "expr": query.expression,
                "legendFormat": query.legend,
                # Points that lead to traces, where Prometheus keeps them.
                "exemplar": "_bucket[" in query.expression,
            }
            for n, query in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in BOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(json_of(dashboard))
