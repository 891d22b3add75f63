"""The benchmark of kernels: its checks, and what is left of a run that is cut off."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.bars import OPERATORS, STEPS
from benchmarks.gpu.cases.setup import REAL
from benchmarks.gpu.models import SHAPES
from benchmarks.gpu.operators import Case, measure
from benchmarks.gpu.process.report import Report
from benchmarks.gpu.process.supervise import supervise
from benchmarks.gpu.timing import Ceilings
from benchmarks.harness.environment import this_environment

ROOT = Path(__file__).parents[2]


def run_of(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With a wheel of the caller's, which must be importable."""
    wheels = folder / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sitecustomize.py", "import sys; sys.stderr.write('carried is used\\n')")
    environment = {**os.environ, "LEASE_WHEELS": str(wheels), "LEASE_PYTHON": sys.executable}
    return subprocess.run(
        [ROOT / "scripts/lease", "--out", str(folder), *arguments],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_everything_runs_interpreted_on_a_cpu(tmp_path: Path) -> None:
    done = run_of(tmp_path, "--dry", "--minutes", "8")

    assert done.returncode == 0, done.stderr
    assert "carried is used" in done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    page = (tmp_path / "gpu.md").read_text()
    assert done.stdout == page
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        rows.setdefault(row["kind"], []).append(row)
        assert row.get("is_right", True), row
    # What only a GPU has: `compiled` and `tests`.
    assert rows.keys() == {"operator", "model", "pass", "handoff"}
    assert all(row["seconds"] > 0 for row in rows["operator"] + rows["pass"])
    assert {row["model"] for row in rows["pass"]} == {"tiny", "tiny MoE"}
    for row in rows["operator"]:
        assert f"| {row['operator']} | {row['size']} | right, " in page
    assert "Problems" not in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_explains_what_to_do(tmp_path: Path) -> None:
    done = run_of(tmp_path)

    assert done.returncode == 2
    assert "no CUDA device here; --dry" in done.stderr


def case_of(run: Callable[[], Tensor], exact: Tensor, limit: float = 1e-6) -> Case:
    return Case(
        operator="identity", size="3", run=run, exact=lambda: [exact], limit=limit, num_bytes=1.0
    )


LIMITS = Ceilings(copy_bytes_per_s=1.0, matmul_flops_per_s=1.0)
X = torch.tensor([1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    ("out", "exact"),
    [
        (X * 1.001, X.double()),
        (torch.tensor([1.0, torch.nan, 3.0]), X.double()),
        (X[:2], X.double()),
        (torch.tensor([1, 2, 4]), torch.tensor([1, 2, 3])),
    ],
)
def test_a_wrong_kernel_is_not_timed(out: Tensor, exact: Tensor) -> None:
    row = measure("m", case_of(lambda: out, exact), LIMITS, "cpu")

    assert not row.is_right
    assert row.seconds is None


def test_a_kernel_whose_bits_change_in_the_thirtieth_run_is_not_timed() -> None:
    numbers = itertools.count(1)
    wrong = torch.nextafter(X, X * 2)
    row = measure(
        "m", case_of(lambda: wrong if next(numbers) == 30 else X, X.double()), LIMITS, "cpu"
    )

    assert row.error == 0
    assert not row.is_repeatable
    assert row.seconds is None


def test_a_right_kernel_is_timed() -> None:
    row = measure("m", case_of(X.clone, X.double()), LIMITS, "cpu")

    assert row.is_right
    assert row.seconds is not None


CHILD = """
import json, os, signal, sys, time
def tell(**message): print(json.dumps(message), flush=True)
first = int(sys.argv[-1])
tell(device="made up", copy_bytes_per_s=1e12, matmul_flops_per_s=1e12)
print("some library's words", flush=True)
for number, what in enumerate(sys.argv[1].split()):
    if number >= first:
        tell(item=number, name=f"item {number}")
        if what == "dies": os.kill(os.getpid(), signal.SIGSEGV)
        if what == "hangs": time.sleep(60)
        if what == "fails": tell(failed=f"item {number}", error="Traceback\\nValueError: no")
        else: tell(row={"kind": "tests", "result": f"{number} of {what}"})
tell(end=True)
"""


def supervised(
    tmp_path: Path, items: str, *, limit_s: float = 60.0, silence_s: float = 30.0
) -> Report:
    report = Report(folder=tmp_path, environment=this_environment(), show=lambda _: None)
    command = [sys.executable, "-c", CHILD, items]
    supervise(command, report, limit_s=limit_s, silence_s=silence_s)
    return report


def test_items_that_fail_or_die_do_not_affect_others(tmp_path: Path) -> None:
    report = supervised(tmp_path, "good dies good fails dies good")

    assert [row["result"] for row in report.rows] == ["0 of good", "2 of good", "5 of good"]
    assert [text.splitlines()[-1] for text in report.problems] == [
        "item 1: it ended with status -11",
        "item 3: ValueError: no",
        "item 4: it ended with status -11",
    ]
    assert not report.is_right
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["rows"] == report.rows
    assert "| tests | 5 of good |" in (tmp_path / "gpu.md").read_text()


def test_an_item_that_hangs_is_ended(tmp_path: Path) -> None:
    report = supervised(tmp_path, "good hangs good", silence_s=1.0)

    assert [row["result"] for row in report.rows] == ["0 of good", "2 of good"]
    assert "item 1: no result for 1 s" in report.problems[0]


def test_results_before_the_time_limit_are_written(tmp_path: Path) -> None:
    report = supervised(tmp_path, "good hangs good", limit_s=1.0)

    assert report.problems == ["the time was over at item 1"]
    assert "0 of good" in (tmp_path / "gpu.md").read_text()


def test_a_process_that_cannot_start_is_not_started_again(tmp_path: Path) -> None:
    report = Report(folder=tmp_path, environment=this_environment(), show=lambda _: None)

    supervise([sys.executable, "-c", "raise SystemExit(3)"], report, limit_s=60.0, silence_s=30.0)

    assert report.problems == ["the start: it ended with status 3"]


def test_every_bar_belongs_to_a_case_that_is_measured() -> None:
    named = {shape.name: shape for shape in SHAPES}
    for model, operators in OPERATORS.items():
        sizes = {
            "delta rule, prefill": {f"{n}" for n in REAL.gdn_prefill},
            "delta rule, decode": {f"{n} x {rounds}" for n, rounds in REAL.gdn_decode},
            "attention, decode": {
                f"{n} x {rounds} after {context}"
                for n, context in REAL.attention_decode
                for rounds in REAL.attention_rounds
            },
        }
        assert model in named
        for operator, bars in operators.items():
            assert bars.keys() <= sizes[operator]
    # Their rows are made by `steps.measure`.
    assert {(model in named, kind) for model, kind, _ in STEPS} == {(True, "decode, graph")}
