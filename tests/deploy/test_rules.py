"""The alerts: Prometheus accepts them, they fire when they must, and each is explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.test_metric_names import DECODE, GATEWAY, PREFILL, ROUTER

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
FILES = sorted(FOLDER.glob("*.rules.yml"))
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
METRIC = re.compile(r"\bsegue_\w+")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is not installed; ./check installs it (Debian: prometheus)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def rules() -> list[dict[str, Any]]:
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def test_prometheus_own_checker_accepts_the_rules() -> None:
    checked = promtool("check", "rules", *FILES)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_for_series_that_show_a_problem_and_for_no_others() -> None:
    tested = promtool("test", "rules", FOLDER / "rules_test.yml")

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_to_fire() -> None:
    cases = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in cases
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }

    assert fired == {alert["alert"] for alert in alerts()}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    sections = HEADING.findall((ROOT / "docs" / "runbooks.md").read_text())
    named = {alert["alert"]: alert["annotations"]["runbook"] for alert in alerts()}

    assert sorted(sections) == sorted(named)
    assert {name: link.partition("#")[2] for name, link in named.items()} == {
        name: name.lower() for name in named
    }


def test_rules_use_only_metrics_that_exist() -> None:
    ours = {*ROUTER, *PREFILL, *DECODE, *GATEWAY}
    used = {name for rule in rules() for name in METRIC.findall(rule["expr"])}

    assert len(used) > 10
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used} <= ours
