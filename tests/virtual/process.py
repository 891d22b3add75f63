"""One process of a virtual cluster: a name for what runs, dies and stops together."""

from __future__ import annotations

import random
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(eq=False)
class Process:
    name: str
    address: str
    draw: random.Random
    is_dead: bool = False
    frozen_until: float = 0.0
    """Like a process that got SIGSTOP: its threads do not run, and no message leaves or arrives."""
    engine_is_stuck: bool = False
    """Its engine thread hangs in a pass; all else goes on."""


HERE: ContextVar[Process] = ContextVar("HERE")
"""The process in which a task runs; its tasks inherit it."""
