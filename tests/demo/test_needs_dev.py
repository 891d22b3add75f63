"""Without the development dependencies, the demo model's tools report that in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_TRANSFORMERS = """\
import runpy, sys
sys.modules["transformers"] = None
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("module", ["evaluate", "train", "train_mtp"])
def test_a_tool_without_transformers_names_the_extra(module: str) -> None:
    command = [sys.executable, "-c", WITHOUT_TRANSFORMERS, f"segue.demo.{module}"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert done.stderr.startswith("this needs transformers, which the development set-up installs")
    assert len(done.stderr.splitlines()) == 1
