"""The environment of a measurement, without which its numbers mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

_PACKAGES = ("torch", "transformers", "ray", "grpcio", "mooncake-transfer-engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    commit: str
    """With a + if files differ from it."""
    date: str
    cpu: str
    cores: int
    other_load: float
    """Runnable processes in the minute before the start: 0 on a quiet machine."""
    python: str
    versions: dict[str, str]


def this_environment() -> Environment:
    return Environment(
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=_cpu_name(Path("/proc/cpuinfo").read_text()),
        cores=os.cpu_count() or 1,
        other_load=os.getloadavg()[0],
        python=platform.python_version(),
        versions={
            found.name: found.version
            for found in distributions()
            if found.name.startswith(_PACKAGES)
        },
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        root = Path(__file__).parents[2]
        return subprocess.run(
            ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        is_changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return git("rev-parse", "--short", "HEAD") + "+" * is_changed
    except (OSError, subprocess.CalledProcessError):
        # A source archive has no history.
        return "unknown"


def _cpu_name(cpuinfo: str) -> str:
    names = [line.partition(":")[2] for line in cpuinfo.splitlines() if "model name" in line]
    return names[0].strip() if names else platform.machine()
