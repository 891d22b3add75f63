"""The cores that a worker computes on, and its threads."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from segue.api.errors import InvalidConfig
from segue.process.control_groups import read_quota

ALL = "all"
MAX_CORE = 1 << 16
Result = TypeVar("Result")

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def core_lists(text: str) -> tuple[frozenset[int], ...]:
    """The lists of a setting `cores`, such as `0-3,8`. Semicolons separate the lists of several
    workers of a role: worker i has list i, modulo their number. Empty for `all` and the empty text.
    Raises ValueError.
    """
    if text.strip() in ("", ALL):
        return ()
    return tuple(_list_of(part, text) for part in text.split(";"))


def _list_of(part: str, text: str) -> frozenset[int]:
    cores: set[int] = set()
    for term in part.split(","):
        match = _RANGE.fullmatch(term.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_CORE:
            raise ValueError(
                f'cores must be "{ALL}" or list core numbers and ranges, as in "0-3,8", with a '
                f"semicolon between the lists of several workers, got {text!r}"
            )
        cores.update(range(first, last + 1))
    return frozenset(cores)


def listed(cores: Iterable[int]) -> str:
    """In the format of `core_lists`: `0-3,8`."""
    ordered = sorted(cores)
    starts = [core for before, core in pairwise([-2, *ordered]) if core != before + 1]
    ends = [core for core, after in pairwise([*ordered, -2]) if after != core + 1]
    return ",".join(
        f"{start}-{end}" if end > start else f"{start}"
        for start, end in zip(starts, ends, strict=True)
    )


def separated(text: str) -> list[str]:
    """The settings of a role's workers: a single one for all, unless there are several lists."""
    lists = core_lists(text)
    return [listed(cores) for cores in lists] if len(lists) > 1 else [text]


@dataclass(frozen=True, slots=True)
class UsableCores:
    """The cores that a process may use."""

    cores: frozenset[int]
    quota: float = math.inf
    """Of its control groups: seconds of processor time a second."""

    @classmethod
    def of_process(cls) -> UsableCores:
        if sys.platform == "linux":
            return cls(frozenset(os.sched_getaffinity(0)), read_quota())
        return cls(frozenset(range(os.cpu_count() or 1)))

    def num_threads(self, cores: frozenset[int], *, num_ranks: int) -> int:
        """Threads of each rank of a worker on these cores: the ranks compute at the same time."""
        return max(int(min(len(cores), self.quota)) // num_ranks, 1)

    def require(self, text: str, cores: frozenset[int]) -> None:
        """Raises InvalidConfig unless this process may use all cores of the setting `text`."""
        if missing := cores - self.cores:
            raise InvalidConfig(
                f"cores = {text!r} names {listed(missing)}, but this process may use only "
                f"{listed(self.cores)}: name some of these, or let it use more (`taskset`, the "
                "container's cpuset)"
            )


def keep_to(cores: frozenset[int]) -> None:
    """Restricts all threads of this process, and those that they start, to these cores. Raises
    InvalidConfig where the system has no such call."""
    if sys.platform != "linux":
        raise InvalidConfig(f"cores = {listed(cores)!r} needs Linux: leave it out")
    os.sched_setaffinity(0, cores)
    for thread in os.listdir("/proc/self/task"):
        # It may have ended.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


async def in_brief_thread(call: Callable[[], Result]) -> Result:
    """Runs `call` in a new thread, which has ended when this returns or raises.

    Every thread that computes has its own OpenMP threads, which live as long as it does. If a
    process has more of them than cores, libgomp stops their spinning: each sleeps until its next
    part of a product, and waking a core takes as long as a small product. The threads of
    `asyncio.to_thread` would stay.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
