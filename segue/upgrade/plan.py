"""Which process a rolling restart takes next: a pure function of what the cluster shows.

Nothing is remembered between two looks but when the restart began and which processes there were,
so one that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from segue.api.errors import InvalidRequest


class Kind(enum.IntEnum):
    """In the order in which they restart: what is called comes before what calls it."""

    PREFILL = 0
    DECODE = 1
    ROUTER = 2
    GATEWAY = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A process of the cluster, in any of its lives."""

    kind: Kind
    name: str
    """A worker's id; the address of a router or a gateway."""

    def __str__(self) -> str:
        return self.name if self.kind < Kind.ROUTER else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a process."""

    member: Member
    is_ready: bool
    """It serves; a worker in the view of every router."""
    uptime_s: float
    """Of this life. 0 if it cannot be reached."""


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
    seen: Sequence[Seen],
    *,
    known: Collection[Member],
    began_s: float,
    may_interrupt: bool = False,
) -> Step:
    """`known`: the processes that must be there. `began_s`: how long ago the rolling restart began;
    what has served for less is a successor. `may_interrupt`: the only process of a kind may restart
    too, and the cluster refuses turns meanwhile.

    Raises InvalidRequest if that would happen without `may_interrupt`.
    """
    ready = {one.member for one in seen if one.is_ready}
    old = sorted(one.member for one in seen if one.uptime_s > began_s)
    if not may_interrupt:
        _require_siblings(old, {*known, *ready})
    if absent := sorted({*known, *(one.member for one in seen)} - ready):
        return Wait(tuple(absent))
    return Restart(old[0]) if old else Done()


def _require_siblings(old: Sequence[Member], members: Collection[Member]) -> None:
    """Before the first restart, so that nothing is left half done."""
    kinds = [member.kind for member in members]
    for member in old:
        if kinds.count(member.kind) == 1:
            raise InvalidRequest(
                f"expected at least two {_plural(member.kind)}, so that one serves while the other "
                f"restarts, got {member.name} alone: {_advice(member.kind)}, or accept an "
                "interruption with --may-interrupt"
            )


def _plural(kind: Kind) -> str:
    return f"{kind}s" if kind >= Kind.ROUTER else f"{kind} workers"


def _advice(kind: Kind) -> str:
    match kind:
        case Kind.ROUTER:
            return "start two (--routers 2) and name both with --target"
        case Kind.GATEWAY:
            return "start two (--gateways 2) and name both with --gateway"
        case _:
            return f"start two (--{kind} 2)"
