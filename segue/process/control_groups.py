"""The control groups that limit this process: its own and all its parents, in either version."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ControlGroup:
    folder: Path
    is_unified: bool
    """Version 2: one tree for all controllers, with other file names."""


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[ControlGroup]:
    """Those with a limit of `controller`, such as "memory" or "cpu": each limits those below it."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys" / "fs" / "cgroup"
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            top = mounts / controller
        elif not controllers:
            top = mounts
        else:
            continue
        # Inside a container the path may be the host's, and only its top directory is visible.
        own = top / path.strip("/")
        for folder in (own, *own.parents):
            yield ControlGroup(folder, is_unified=not controllers)
            if folder == top:
                break


def read_quota(root: Path = Path("/")) -> float:
    """The tightest quota of this process's control groups, in cores; infinite without one."""
    quota = math.inf
    for group in control_groups("cpu", root):
        with contextlib.suppress(OSError, ValueError):
            if group.is_unified:
                # "max" is not a number.
                used, period = map(int, (group.folder / "cpu.max").read_text().split())
            else:
                used = int((group.folder / "cpu.cfs_quota_us").read_text())
                period = int((group.folder / "cpu.cfs_period_us").read_text())
            if used > 0 and period > 0:
                quota = min(quota, used / period)
    return quota
