"""Tells a person when a process of the cluster dies, and when it runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError


@dataclass(slots=True)
class Life:
    """One process, as seen by asking it for its process id again and again."""

    process: str
    pid: int = 0
    """Of its last life; 0 until it has answered."""
    is_dead: bool = False

    def answered(self, pid: int) -> Iterator[str]:
        if self.pid and pid != self.pid:
            # Its death and its start may both lie between two questions.
            yield from self.died()
        if self.is_dead:
            yield f"{self.process} runs again (pid {pid})"
        self.pid, self.is_dead = pid, False

    def died(self) -> Iterator[str]:
        if not self.is_dead:
            self.is_dead = True
            which = f" (pid {self.pid})" if self.pid else ""
            yield f"{self.process} died{which}; Ray starts it again"


class Watch:
    """Asks Ray actors, one question each at a time, and never waits. All of them serve when it is
    made."""

    def __init__(self, actors: Mapping[str, Any]) -> None:
        self._actors = actors
        self._lives = {process: Life(process) for process in actors}
        self._asked = {process: actor.pid.remote() for process, actor in actors.items()}

    def look(self, report: Callable[[str], None]) -> None:
        """Reports what has happened since the last look. Call it about once a second."""
        for process in self._actors:
            for line in self._look_at(process):
                report(line)

    def _look_at(self, process: str) -> Iterator[str]:
        life, asked = self._lives[process], self._asked[process]
        answered, _ = ray.wait([asked], timeout=0)
        if not answered:
            return
        try:
            yield from life.answered(ray.get(asked))
        except RayError:
            yield from life.died()
        self._asked[process] = self._actors[process].pid.remote()
