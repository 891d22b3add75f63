"""The dashboards' files are what their source says, and ask only for metrics that exist."""

from __future__ import annotations

import json
import re

from scripts.dashboards.__main__ import FOLDER, json_of
from scripts.dashboards.boards import BOARDS
from tests.repo.test_metric_names import DECODE, GATEWAY, PREFILL, ROUTER, STANDARD

METRIC = re.compile(r"\b(?:segue|process)_\w+")
SUFFIX = re.compile(r"_(?:total|bucket|sum|count)$")
# What a dashboard would only repeat.
NOT_SHOWN = {"segue_build_info", "segue_time_per_output_token_seconds", "segue_turn_seconds"}


def test_the_files_are_written_from_their_source() -> None:
    """`python -m scripts.dashboards` writes them."""
    files = {path.name: path.read_text() for path in FOLDER.iterdir()}

    assert files == {f"{board.name}.json": json_of(board) for board in BOARDS}


def test_panels_ask_for_metrics_that_exist_and_show_all_of_ours() -> None:
    queries = [query for board in BOARDS for panel in board.panels for query in panel.queries]
    used = {name for query in queries for name in METRIC.findall(query.expression)}
    ours = {SUFFIX.sub("", name) for name in used if name.startswith("segue_")}
    all_of_ours = {*ROUTER, *PREFILL, *DECODE, *GATEWAY}
    shown_elsewhere = {name for name in all_of_ours if name.startswith("gen_ai")}

    assert ours <= all_of_ours
    assert {name for name in used if name.startswith("process_")} <= STANDARD
    assert all_of_ours - ours - shown_elsewhere <= NOT_SHOWN | {
        *("segue_cached_tokens", "segue_rerendered_turns", "segue_prefill_pulled_bytes"),
        *("segue_host_slots",),
    }


def test_every_dashboard_is_one_that_grafana_can_place() -> None:
    for board in BOARDS:
        whole = json.loads(json_of(board))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in whole["panels"]]
        titles = [panel["title"] for panel in whole["panels"]]

        assert len(set(places)) == len(places)
        assert len(set(titles)) == len(titles)
        assert all(x + 8 <= 24 for x, _ in places)
