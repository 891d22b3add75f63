"""The result of a run: JSON with everything, and a Markdown page. Written after every row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import Environment

Row = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Report:
    folder: Path
    environment: Environment
    show: Callable[[str], None]
    """Called with a line for each item and problem."""
    device: str = "unknown"
    ceilings: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Items that failed, with their errors, and where the time was over."""

    @property
    def is_right(self) -> bool:
        """No check failed, and nothing crashed."""
        return not self.problems and all(row.get("is_right", True) for row in self.rows)

    def take(self, message: dict[str, Any]) -> bool:
        """A message of the measuring process. Returns whether it was the last one."""
        if "device" in message:
            self.device = message.pop("device")
            self.ceilings = message
        elif "row" in message:
            self.rows.append(message["row"])
        elif "failed" in message:
            error = message["error"].strip()
            self.problem(f"{error}\n{message['failed']}: {error.splitlines()[-1]}")
        self.write()
        return bool(message.get("end"))

    def write(self) -> None:
        content = {
            "benchmark": "gpu",
            "environment": asdict(self.environment),
            "device": self.device,
            "ceilings": self.ceilings,
            "rows": self.rows,
            "problems": self.problems,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("gpu.json", json.dumps(content, indent=1)),
            ("gpu.md", "\n".join(self._page())),
        ):
            # Whole, even if the run is cut off here.
            part = self.folder / f"{name}.part"
            part.write_text(text + "\n", "utf-8")
            part.replace(self.folder / name)

    def problem(self, text: str) -> None:
        """The last line is shown."""
        self.problems.append(text)
        self.show(f"PROBLEM {text.splitlines()[-1]}")
        self.write()

    def _page(self) -> Iterator[str]:
        environment = self.environment
        yield f"# {self.device}, {environment.date[:10]}, commit {environment.commit}"
        yield ""
        yield ", ".join(f"{name} {version}" for name, version in environment.versions.items())
        if self.ceilings:
            copied = self.ceilings["copy_bytes_per_s"] / 1e12
            multiplied = self.ceilings["matmul_flops_per_s"] / 1e12
            yield ""
            yield f"Measured ceilings: copy {copied:.2f} TB/s, product {multiplied:.0f} TFLOP/s."
        for title, columns, kinds, cells in _TABLES:
            rows = [row for row in self.rows if row["kind"] in kinds]
            if rows:
                names = columns.split(" | ")
                yield from ("", f"## {title}", "", f"| {columns} |", "| --- " * len(names) + "|")
                yield from (f"| {' | '.join(cells(row))} |" for row in rows)
        if self.problems:
            yield from ("", "## Problems", "")
            yield from (f"- {problem.splitlines()[-1]}" for problem in self.problems)


def _operator(row: Row) -> list[str]:
    peers = ", ".join(f"{name} {seconds * 1e6:.1f}" for name, seconds in row["peers_s"].items())
    verdict = "right" if row["is_right"] else "WRONG"
    if not row["is_repeatable"]:
        verdict = "NOT REPEATABLE"
    return [
        row["model"],
        row["operator"],
        row["size"],
        f"{verdict}, {row['error']:.1e} of {row['limit']:.0e}",
        f"{row['seconds'] * 1e6:.1f}" if row["seconds"] else "",
        f"{row['floor_s'] * 1e6:.1f}",
        f"{row['share']:.0%}" if row["seconds"] else "",
        _bar(row),
        peers,
    ]


def _pass(row: Row) -> list[str]:
    return [
        row["model"],
        row["what"] if row["is_right"] else f"{row['what']}: WRONG TOKENS",
        f"{row['num_tokens']:,}",
        f"{row['seconds'] * 1e3:.2f}",
        f"{row['tokens_per_s']:,.0f}",
        f"{row['floor_s'] * 1e3:.2f}",
        f"{row['share']:.0%}",
        _bar(row),
    ]


def _handoff(row: Row) -> list[str]:
    return [
        row["model"],
        f"{row['num_tokens']:,}",
        f"{row['num_bytes'] / (1 << 20):.0f}",
        f"{row['prefill_s'] * 1e3:.1f}",
        f"{row['ship_s'] * 1e3:.2f}",
        f"{row['both_s'] * 1e3:.1f}",
        f"{row['hidden_share']:.0%}",
        "yes" if row["is_exact"] else "NO",
    ]


def _other(row: Row) -> list[str]:
    match row["kind"]:
        case "model":
            verdict = "right" if row["is_right"] else "WRONG"
            found = f"{row['size']}: {verdict}, {row['error']:.1e} of {row['limit']:.0e}"
            return [f"layers of {row['model']} against references", found]
        case "compiled":
            return [f"kernels of {row['model']}", f"{row['num_kernels']} compiled"]
        case _:
            return ["tests", row["result"].replace("\n", " ")]


def _bar(row: Row) -> str:
    if not row["bar"]:
        return ""
    return f"{row['bar']}: {'met' if row['is_met'] else 'MISSED'}"


_TABLES: tuple[tuple[str, str, tuple[str, ...], Callable[[Row], list[str]]], ...] = (
    ("Checks", "what | result", ("model", "compiled", "tests"), _other),
    (
        "Operators",
        "model | operator | size | against float64 | µs | floor µs | share | bar | peers, µs",
        ("operator",),
        _operator,
    ),
    (
        "Whole passes",
        "model | pass | tokens | ms | tokens/s | floor ms | share | bar",
        ("pass",),
        _pass,
    ),
    (
        "Handoff within one GPU",
        "model | tokens | MiB | prefill ms | ship ms | both ms | hidden | exact",
        ("handoff",),
        _handoff,
    ),
)
