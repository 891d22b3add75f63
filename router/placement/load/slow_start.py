"""Workers that join a serving cluster take load gradually.

A new worker is the least loaded one, so every new session and every prompt that would queue would
go to it at once: a burst on a process whose caches are empty and whose connections are new. For
some seconds it is therefore placed as if it had only a growing share of its speed.
"""

from __future__ import annotations

from router.placement.coefficients import Speed
from segue.cost_line import Line

FIRST_SHARE = 0.1
"""Not 0: a worker that never gets a turn is never seen to be able to run one."""


def share_of_speed(ready_s: float, slow_start_s: float) -> float:
    """How much of its speed a worker counts with that has been ready for so long, up to 1."""
    if ready_s >= slow_start_s:
        return 1.0
    return max(FIRST_SHARE + (1.0 - FIRST_SHARE) * ready_s / slow_start_s, FIRST_SHARE)


def slowed(speed: Speed, share: float) -> Speed:
    """The speed of a worker that has only a share of it to give."""
    return speed._replace(compute=_slowed(speed.compute, share), step=_slowed(speed.step, share))


def _slowed(line: Line, share: float) -> Line:
    return line._replace(fixed=line.fixed / share, per_unit=line.per_unit / share)


def counted(load: int, share: float) -> int:
    """A load that ranks a worker with this share beside others: an idle one is not the first."""
    return load if share >= 1.0 else int((load + 1) / share) - 1
