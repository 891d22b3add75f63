"""What came of a drain, in one line and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from segue.api.drain import DrainReport
from segue.cli.show import counted


def report_line(report: DrainReport) -> str:
    moved = f"{counted(report.moved_sessions, 'session')} moved"
    if report.moved_bytes:
        moved += f" ({report.moved_bytes / 1024:.0f} KiB)"
    parts = [f"{counted(report.ended_turns, 'turn')} ended"]
    if report.moved_turns:
        parts.append(f"{counted(report.moved_turns, 'turn')} went on elsewhere")
    parts.append(moved)
    if report.left:
        reasons = ", ".join(f"{count} {reason.value}" for reason, count in report.left.items())
        parts.append(f"{counted(sum(report.left.values()), 'session')} left behind ({reasons})")
    return "drained: " + ", ".join(parts)


def report_json(report: DrainReport) -> str:
    left = {reason.name.lower(): count for reason, count in report.left.items()}
    return json.dumps({**asdict(report), "left": left})
