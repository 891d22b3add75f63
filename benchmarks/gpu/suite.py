"""The tests that need a GPU, where pytest is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_TESTS = ("tests/kernels", "tests/engine/test_graphs.py", "tests/kv_transfer/test_gpu_memory.py")
_NEEDED = ("pytest", "pytest_asyncio", "transformers")
_OUTPUT_CHARS = 2000


def run_tests() -> str:
    """Runs the tests that carry the marker gpu. Returns pytest's last line, after the end of its
    output if a test failed, or what is not installed.
    """
    if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        return f"not run: {', '.join(lacking)} not installed"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", *_TESTS],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = re.sub(r"^=+ | =+$", "", done.stdout.strip().splitlines()[-1])
    return last if done.returncode == 0 else f"{done.stdout[-_OUTPUT_CHARS:]}\n{last}"
