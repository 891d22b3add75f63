"""The next step of a rolling restart: a pure function of the cluster's state.

Only the start time and the set of processes are remembered between two looks, so an interrupted
restart continues where it stopped.
"""

from __future__ import annotations

import enum
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


def _require_siblings(old: Sequence[Member], members: Collection[Member]) -> None:
    """Checked before the first restart, so that a refusal leaves nothing half done."""
    kinds = [member.kind for member in members]
    alone = [member for member in old if kinds.count(member.kind) == 1]
    if alone:
        two = " and ".join(f"two {_plural(member.kind)}" for member in alone)
        names = " and ".join(member.name for member in alone)
        advice = ", ".join(_advice(member.kind) for member in alone)
        raise InvalidRequest(
            f"expected at least {two}, so that one serves while the other restarts, got only "
            f"{names}: {advice}, wait if another upgrade is restarting one, or accept an "
            "interruption with --may-interrupt"
        )


def _plural(kind: ProcessKind) -> str:
    return f"{kind}s" if kind >= ProcessKind.ROUTER else f"{kind} workers"


def _advice(kind: ProcessKind) -> str:
    match kind:
        case ProcessKind.ROUTER:
            return "start two with --routers 2 and name both with --target"
        case ProcessKind.GATEWAY:
            return "start two with --gateways 2 and name both with --gateway"
        case _:
            return f"start two with --{kind} 2"
