"""The next step of a rolling restart, and whether processes may restart: pure functions of the
cluster's state.

Only the start time and the set of processes are remembered between two looks, so an interrupted
restart continues where it stopped.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from segue.api.errors import InvalidRequest


class ProcessKind(enum.IntEnum):
    """In the order in which they restart: callees before callers."""

    PREFILL = 0
    DECODE = 1
    ROUTER = 2
    GATEWAY = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A process of the cluster and its successors."""

    kind: ProcessKind
    name: str
    """A worker's id; the address of a router or a gateway."""

    def __str__(self) -> str:
        return self.name if self.kind < ProcessKind.ROUTER else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One look at a process."""

    member: Member
    is_ready: bool
    """It serves; for a worker: every router considers it ready."""
    uptime_s: float
    """0 if it cannot be reached."""


@dataclass(frozen=True, slots=True)
class Restart:
    member: Member


@dataclass(frozen=True, slots=True)
class Wait:
    """Until these are ready."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Every process is a successor."""


Step = Restart | Wait | Done


def next_step(
    seen: Sequence[ProcessView],
    *,
    known: Collection[Member],
    age_s: float,
    may_interrupt: bool = False,
) -> Step:
    """`known`: the processes that must exist. `age_s`: the time since the rolling restart started;
    a process with a shorter uptime is a successor. `may_interrupt`: the only process of a kind may
    restart too, while the cluster refuses turns.

    Raises InvalidRequest if that would happen without `may_interrupt`.
    """
    ready = {one.member for one in seen if one.is_ready}
    old = sorted(one.member for one in seen if one.uptime_s > age_s)
    if not may_interrupt:
        _require_siblings(old, {*known, *ready})
    if absent := sorted({*known, *(one.member for one in seen)} - ready):
        return Wait(tuple(absent))
    return Restart(old[0]) if old else Done()


def require_others(leaving: Collection[Member], ready: Collection[Member]) -> None:
    """Raises InvalidRequest if no process of a kind is ready while these restart together."""
    kinds = {member.kind for member in ready if member not in leaving}
    _refuse(sorted(one for one in leaving if one in ready and one.kind not in kinds))


def _require_siblings(old: Sequence[Member], members: Collection[Member]) -> None:
    """Checked before the first restart, so that a refusal leaves nothing half done."""
    kinds = [member.kind for member in members]
    _refuse([member for member in old if kinds.count(member.kind) == 1])


def _refuse(alone: Sequence[Member]) -> None:
    """`alone`: sorted; all processes of their kinds. Raises InvalidRequest if there are any."""
    if not alone:
        return
    wanted = {kind: count + 1 for kind, count in Counter(one.kind for one in alone).items()}
    enough = " and ".join(f"{_word(num)} {_plural(kind)}" for kind, num in wanted.items())
    restart = "the other restarts" if max(wanted.values()) == 2 else "the others restart"
    names = " and ".join(member.name for member in alone)
    advice = ", ".join(_advice(kind, num) for kind, num in wanted.items())
    raise InvalidRequest(
        f"expected at least {enough}, all ready, so that one serves while {restart}, got only "
        f"{names}: {advice}, wait if one is restarting, or accept an interruption with "
        "--may-interrupt"
    )


def _word(number: int) -> str:
    return "two" if number == 2 else str(number)


def _plural(kind: ProcessKind) -> str:
    return f"{kind}s" if kind >= ProcessKind.ROUTER else f"{kind} workers"


def _advice(kind: ProcessKind, number: int) -> str:
    start = f"start {_word(number)} with"
    match kind:
        case ProcessKind.ROUTER:
            return f"{start} --routers {number} and name both with --target"
        case ProcessKind.GATEWAY:
            return f"{start} --gateways {number} and name both with --gateway"
        case _:
            return f"{start} --{kind} {number}"
