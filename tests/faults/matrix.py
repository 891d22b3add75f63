"""Faults, their targets and moments. Combinations without a meaning are left out, with a reason."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator
from dataclasses import dataclass


class Target(enum.StrEnum):
    ROUTER = "router"
    PREFILL = "prefill"
    DECODE = "decode"
    HANDOFF = "handoff"
    """The connections between a prefill and a decode worker. Those between the router and a worker,
    or the router and its clients, belong to PREFILL, DECODE and ROUTER."""
    GATEWAY = "gateway"
    RAYLET = "raylet"
    GCS = "gcs"
    """Of the Ray that `segue serve` has started on its machine."""
    NODE = "node"
    """The raylet of a node: of a head with the router and three nodes, one of which is free."""
    HEAD = "head"
    """The GCS there."""


class Fault(enum.StrEnum):
    KILL = "kill"
    STOP_3 = "stop3"
    STOP_20 = "stop20"
    TERM = "term"
    CUT = "cut"
    HALF_OPEN = "half-open"
    RESET = "reset"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    WRITE = "write"
    CHECKSUM = "checksum"
    DISK = "disk"
    STUCK = "stuck"


class Moment(enum.StrEnum):
    QUEUED = "queued"
    RESERVED = "reserved"
    PREFILLING = "prefilling"
    SHIPPING = "shipping"
    COMMITTED = "committed"
    STREAMING = "streaming"
    BETWEEN = "between"
    DRAIN = "drain"
    START = "start"


FAULT_WORDS = {
    Fault.KILL: "kill -9",
    Fault.STOP_3: "SIGSTOP for 3 s",
    Fault.STOP_20: "SIGSTOP for 20 s",
    Fault.TERM: "SIGTERM",
    Fault.CUT: "its connections to one other process stand still for 5 s",
    Fault.HALF_OPEN: "these connections never carry a byte again, and neither end is closed",
    Fault.RESET: "these connections are reset",
    Fault.DELAY: "everything on these connections is 0.3 s late, for 5 s",
    Fault.DUPLICATE: "some bytes on these connections arrive twice",
    Fault.WRITE: "a Mooncake write fails after half of it has arrived",
    Fault.CHECKSUM: "a write arrives with one byte changed",
    Fault.DISK: "the process can write no byte to a disk, for 5 s",
    Fault.STUCK: "its engine's next pass deadlocks in native code, while the process answers",
}

NETWORK = frozenset({Fault.CUT, Fault.HALF_OPEN, Fault.RESET, Fault.DELAY, Fault.DUPLICATE})
RAY = frozenset({Target.RAYLET, Target.GCS, Target.NODE, Target.HEAD})
_SIGNALS = frozenset({Fault.KILL, Fault.STOP_3, Fault.STOP_20, Fault.TERM})
_WRITES = (Target.PREFILL, Moment.SHIPPING)
_HANDOFF = frozenset({Moment.RESERVED, Moment.PREFILLING, Moment.SHIPPING, Moment.COMMITTED})


@dataclass(frozen=True, slots=True)
class Cell:
    target: Target
    fault: Fault
    moment: Moment

    def __str__(self) -> str:
        return f"{self.target} {self.fault} {self.moment}"


def cells() -> Iterator[Cell]:
    """Every combination, those without a meaning too."""
    return itertools.starmap(Cell, itertools.product(Target, Fault, Moment))


def why_left_out(cell: Cell) -> str:
    """The reason to leave a cell out; empty if it is run."""
    return _by_fault(cell) or _by_target(cell)


def _by_fault(cell: Cell) -> str:
    match cell.fault:
        case Fault.WRITE | Fault.CHECKSUM if (cell.target, cell.moment) != _WRITES:
            return "only a prefill worker that ships a prompt writes"
        case Fault.DISK if cell.moment not in (Moment.STREAMING, Moment.BETWEEN):
            return "a turn needs no disk: processes only log, so two moments stand for all"
        case Fault.STUCK if cell.target not in (Target.PREFILL, Target.DECODE):
            return "only a worker has an engine"
        case Fault.STUCK if cell.moment is Moment.START:
            return "a worker that starts computes nothing yet"
        case Fault.STUCK if (cell.target, cell.moment) == (Target.PREFILL, Moment.DRAIN):
            return "a prefill worker without a prompt leaves at once"
        case fault if fault in NETWORK:
            if cell.moment is Moment.START:
                return "a process that starts has no connections yet"
            if cell.moment is Moment.DRAIN and fault is not Fault.CUT:
                return "the cut stands for all network faults during a drain"
    return ""


def _by_target(cell: Cell) -> str:
    if cell.target in RAY:
        return _by_ray(cell)
    if cell.target is Target.HANDOFF and cell.fault not in NETWORK:
        return "a pair of processes: only its network can fail"
    if cell.target is Target.HANDOFF and cell.moment not in _HANDOFF:
        return "no handoff is under way"
    if cell.target is Target.GATEWAY and cell.moment in _HANDOFF:
        return "for a gateway the wait for a first token is one moment, for which `queued` stands"
    return ""


def _by_ray(cell: Cell) -> str:
    if cell.fault not in _SIGNALS:
        return "no byte of a turn passes through Ray"
    if cell.moment is Moment.START:
        return "tests/cluster/test_restarts.py has it"
    if cell.moment not in (Moment.STREAMING, Moment.BETWEEN):
        return "no call of a turn passes through Ray, so two moments stand for all"
    return ""
