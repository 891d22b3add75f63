"""Tests before a measurement: wrong kernels are not measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

_ROOT = Path(__file__).parents[2]
_TESTS = ("tests/kernels", "tests/engine/test_graphs.py", "tests/kv_transfer/test_gpu_memory.py")
_MAX_PROCESSES = 8
"""Compiling takes the time, not the GPU."""


def run_tests(limit_s: float) -> str:
    """Returns pytest's last line. On a GPU the tests cover compiled kernels, captured steps and
    reading its memory; on a CPU, interpreted kernels. Raises RuntimeError with the output if a test
    fails, or if the tests exceed the limit.
    """
    processes = str(min(os.cpu_count() or 1, _MAX_PROCESSES))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", processes]
    command += ["-m", "not slow" if torch.cuda.is_available() else "not slow and not gpu"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    try:
        done = subprocess.run(
            [*command, *_TESTS],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"the tests took longer than {limit_s:g} s, so nothing is measured; run "
            f"`pytest -m 'not slow' {' '.join(_TESTS)}` alone, then --no-tests"
        ) from None
    if done.returncode != 0:
        raise RuntimeError(f"the tests fail, so nothing is measured:\n{done.stdout[-8000:]}")
    return re.sub(r"^=+ | =+$", "", done.stdout.strip().splitlines()[-1])
