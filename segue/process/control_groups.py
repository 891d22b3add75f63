"""The control groups that limit this process: its own and all above it, in either version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ControlGroup:
    folder: Path
    is_unified: bool
    """Version 2: one tree for all controllers, with files of other names."""


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
