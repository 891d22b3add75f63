"""The memory that this process may use: from /proc/meminfo, and from the limits of the container's
control groups, which meminfo does not show. GPU memory comes from the driver.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from segue.process.control_groups import ControlGroup, control_groups

_NO_LIMIT = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2**63."""
_SMI = ("nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMemory:
    place: str
    """For messages: "this host"."""
    total_bytes: int
    free_bytes: int
    """Including the page cache, which the kernel can reclaim."""


def read_host_memory(root: Path = Path("/")) -> MachineMemory | None:
    """The tightest limit of the machine and its control groups; None if nothing can be read."""
    memory = _meminfo(root / "proc" / "meminfo")
    if memory is None:
        return None
    for group in control_groups("memory", root):
        limit = _limit_of(group)
        if limit is None:
            continue
        total_bytes, free_bytes = limit
        if total_bytes < memory.total_bytes:
            memory = MachineMemory(
                place="this container",
                total_bytes=total_bytes,
                free_bytes=min(free_bytes, memory.free_bytes),
            )
        elif free_bytes < memory.free_bytes:
            memory = replace(memory, free_bytes=free_bytes)
    return memory


def read_gpu_memory() -> MachineMemory | None:
    """Memory of the GPU with the most free memory, without loading torch; None if no driver
    answers. Ray assigns GPUs later, and each worker then reads the memory of its own.
    """
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_gpu_memory(done.stdout)


def parse_gpu_memory(text: str) -> MachineMemory | None:
    """Each line has one GPU's total and free memory in MiB."""
    try:
        rows = [[int(n) for n in row.split(",")] for row in text.splitlines() if row.strip()]
        free_mib, total_mib = max((free, total) for total, free in rows)
    except ValueError:
        return None
    return MachineMemory(place="the GPU", total_bytes=total_mib << 20, free_bytes=free_mib << 20)


def _meminfo(path: Path) -> MachineMemory | None:
    values: dict[str, int] = {}
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            values[name] = int(rest.split()[0]) << 10
        return MachineMemory(
            place="this host",
            total_bytes=values["MemTotal"],
            free_bytes=values.get("MemAvailable", values["MemFree"]),
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _limit_of(group: ControlGroup) -> tuple[int, int] | None:
    """The group's limit and the rest of it; None if it has no limit."""
    limit_name, usage_name, inactive_name = _VERSION_2 if group.is_unified else _VERSION_1
    try:
        limit = int((group.folder / limit_name).read_text())
        usage = int((group.folder / usage_name).read_text())
        stat = (group.folder / "memory.stat").read_text()
    # "max" is not a number.
    except (OSError, ValueError):
        return None
    if limit >= _NO_LIMIT:
        return None
    words = (line.split() for line in stat.splitlines())
    inactive = next((int(w[1]) for w in words if len(w) == 2 and w[0] == inactive_name), 0)
    return limit, max(limit - max(usage - inactive, 0), 0)
