"""Reports when a process of the cluster has ended, and when it serves again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

_FIRST_ANSWERS_S = 1.0


@dataclass(slots=True)
class Life:
    """One process, observed by polling its process id and whether it serves."""

    process: str
    pid: int = 0
    """The last known process id; 0 until it has answered."""
    is_dead: bool = False
    is_away: bool = False
    """Its end has been reported, and its return has not."""

    def answered(self, pid: int, *, serves: bool) -> Iterator[str]:
        if self.pid and pid != self.pid:
            # It may have died and started between two polls.
            yield from self.died()
        if self.is_away and serves:
            self.is_away = False
            yield f"{self.process} serves again (pid {pid})"
        self.pid, self.is_dead = pid, False

    def died(self, *, is_restarted: bool = True) -> Iterator[str]:
        self.is_dead = True
        if not self.is_away:
            self.is_away = True
            which = f" (pid {self.pid})" if self.pid else ""
            then = "Ray starts it again" if is_restarted else "it is not started again"
            yield f"{self.process} has ended{which}; {then}"


def role_lost(processes: Iterable[str], dead: Collection[str]) -> str:
    """A role of which every process is dead; empty if there is none. `decode-1` has the role
    `decode`.
    """
    role_of = {process: process.partition("-")[0] for process in processes}
    living = {role for process, role in role_of.items() if process not in dead}
    return next((role for role in role_of.values() if role not in living), "")


class Watch:
    """Polls Ray actors, one call each at a time, and waits only when it is created: all of them
    must serve then, and their process ids are known even if one ends before the first look."""

    def __init__(self, actors: Mapping[str, Any]) -> None:
        self._actors = dict(actors)
        self._lives = {process: Life(process) for process in actors}
        self._asked = {process: actor.life.remote() for process, actor in actors.items()}
        asked = list(self._asked.values())
        ray.wait(asked, num_returns=len(asked), timeout=_FIRST_ANSWERS_S)

    def look(self, report: Callable[[str], None], *, is_restarted: bool = True) -> None:
        """Reports the events since the last look. Call it about once a second. `is_restarted`:
        whether Ray can restart a process.
        """
        for process in self._actors:
            for line in self._look_at(process, is_restarted):
                report(line)

    def follow(self, actors: Mapping[str, Any]) -> None:
        """Replaces the set of processes: some have started, and others have left for good."""
        for process in [
            name for name in self._actors if actors.get(name) is not self._actors[name]
        ]:
            del self._lives[process], self._asked[process]
        for process, actor in actors.items():
            if process not in self._lives:
                self._lives[process] = Life(process)
                self._asked[process] = actor.life.remote()
        self._actors = dict(actors)

    def role_lost(self) -> str:
        """A role of which every process was dead at the last look; empty if there is none."""
        dead = [process for process, life in self._lives.items() if life.is_dead]
        return role_lost(self._actors, dead)

    def _look_at(self, process: str, is_restarted: bool) -> Iterator[str]:
        life, asked = self._lives[process], self._asked[process]
        answered, _ = ray.wait([asked], timeout=0)
        if not answered:
            return
        try:
            pid, serves = ray.get(asked)
            yield from life.answered(pid, serves=serves)
        except RayError:
            yield from life.died(is_restarted=is_restarted)
        self._asked[process] = self._actors[process].life.remote()
