"""Every kernel, compiled for chips that this machine does not have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segue import kernels
from segue.kernels.aot import Compiled, compile_cases, with_table
from segue.kernels.compile_case import CompileCase

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
COMPILE_CASES = {case.name: case for case in compile_cases()}


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, str], Compiled]:
    """By name and chip; in another process, because kernels are interpreted in this one."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "segue.kernels.aot"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    found = [Compiled(**json.loads(line)) for line in printed.stdout.splitlines()]
    return {(one.name, one.chip): one for one in found}


@pytest.mark.parametrize(
    ("case", "chip"),
    [(case, chip) for case in COMPILE_CASES.values() for chip in case.chips],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_a_kernel_becomes_what_it_was_written_for(
    compiled: dict[tuple[str, str], Compiled], case: CompileCase, chip: str
) -> None:
    assert compiled[case.name, chip].faults(case) == ()


def test_every_kernel_is_compiled() -> None:
    """In each file of kernels, what is launched by its name."""
    launched = {
        (path.parent.name, name)
        for path in Path(kernels.__path__[0]).glob("*/triton*.py")
        for name in re.findall(r"\b(\w*kernel)\[", path.read_text())
    }

    compiled = {
        (module.split(".")[2], name)
        for kernel in (case.kernel.fn for case in COMPILE_CASES.values())
        for module, name in [(kernel.__module__, kernel.__name__)]
    }
    assert launched == compiled


def test_names_are_unique() -> None:
    assert len(COMPILE_CASES) == len(compile_cases())


def test_the_table_in_the_documentation_is_what_the_compiler_says(
    compiled: dict[tuple[str, str], Compiled],
) -> None:
    page = PAGE.read_text()

    assert page == with_table(page, list(compiled.values()))


@pytest.mark.slow
def test_the_delta_rule_compiles_without_a_pipeline_for_blackwell_ultra() -> None:
    script = """
from dataclasses import asdict, replace
import json
from segue.kernels.aot import compile_cases, compile_for
names = ("scan, 32 of V", "scan, 16 of V", "scan, 32 of V, in parts", "part")
for case in compile_cases():
    if case.name.removeprefix("gated delta rule, prefill: ") in names:
        one = compile_for(replace(case, num_stages=1), "sm_103a")
        print(json.dumps(asdict(one)))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    compiled = [json.loads(line) for line in printed.stdout.splitlines()]
    assert len(compiled) == 4
    assert [one["name"] for one in compiled if one["stack_bytes"]] == []
