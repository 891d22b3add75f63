"""The tests that a number needs: nothing is measured of kernels that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_FOLDERS = ("tests/kernels", "tests/engine", "tests/model")


def run_tests(limit_s: float) -> str:
    """pytest's last line. On a GPU every kernel's tests run there, compiled, and those that need
    one besides. Raises RuntimeError with the output where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", *_FOLDERS]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the tests fail, so nothing is measured:\n{done.stdout[-8000:]}")
    return re.sub(r"^=+ | =+$", "", done.stdout.strip().splitlines()[-1])
