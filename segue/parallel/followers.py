"""The leader's side of its connections to a worker's other ranks, the followers.

Each side notices at once if the other one is gone. No rank can compute alone: the leader exits if
a follower is lost, and the followers exit with their leader.

    tell(name, …)   sends to all followers, in order, without an answer
    ask(name, …)    sends to all followers; each of them answers
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from typing import Any, Protocol

from segue.parallel.rank import RanksLost

logger = logging.getLogger(__name__)

_END_TIMEOUT_S = 5.0

TELL = 0
"""The number of a message without an answer."""


class Channel(Protocol):
    """Ordered objects: a pipe, or a `MessageChannel`. One thread may send while another one
    receives."""

    def send(self, message: Any, /) -> None:
        """Raises OSError if the other side is gone."""
        ...

    def recv(self) -> Any:
        """Raises EOFError or OSError if the other side is gone."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Link:
    """One follower."""

    channel: Channel
    process: str
    """Its process id or name, for messages."""
    child: subprocess.Popen[bytes] | None = None
    """None if another process started it. It then exits with this process, or when another leader
    needs it."""

    def end(self) -> None:
        """Waits for the child to exit, and kills it after a timeout."""
        if self.child is None:
            return
        try:
            self.child.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


OnLost = Callable[[RanksLost], None]


class Followers:
    """Any thread may call its methods."""

    def __init__(self, links: Sequence[Link], on_lost: OnLost) -> None:
        """`links`: in rank order. `on_lost` is called on the follower's receiving thread if the
        follower exits before `close`."""
        self._links = links
        self._on_lost = on_lost
        self._sending = threading.Lock()
        self._numbers = itertools.count(TELL + 1)
        self._asked: dict[tuple[int, int], Future[Any]] = {}
        self._lost: dict[int, RanksLost] = {}
        self._is_closed = False
        for index, link in enumerate(links):
            name = f"rank-{index + 1}"
            threading.Thread(
                target=self._receive, args=(index, link), name=name, daemon=True
            ).start()

    @classmethod
    def start(
        cls,
        module: str,
        setups: Sequence[object],
        on_lost: OnLost,
        environments: Sequence[Mapping[str, str]],
    ) -> Followers:
        """Starts a child process for each setup. It runs `module` with the file descriptor of its
        end of a pipe as argument, and receives the setup first."""
        links = []
        for setup, environment in zip(setups, environments, strict=True):
            ours, theirs = Pipe()
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
            )
            theirs.close()
            # If the child has already exited, its receiving thread reports it.
            with contextlib.suppress(OSError):
                ours.send(setup)
            links.append(Link(ours, f"process {process.pid}", process))
        return cls(links, on_lost)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children."""
        return [link.child.pid for link in self._links if link.child is not None]

    def tell(self, name: str, *arguments: object) -> None:
        with self._sending:
            self._send((TELL, name, arguments))

    def ask(self, name: str, *arguments: object) -> list[Future[Any]]:
        """One answer per follower, in rank order. It raises the follower's error, or RanksLost."""
        with self._sending:
            number = next(self._numbers)
            answers: list[Future[Any]] = [Future() for _ in self._links]
            for index, answer in enumerate(answers):
                # A cancelled caller must not cancel the future that the receiving thread sets.
                answer.set_running_or_notify_cancel()
                if index in self._lost:
                    answer.set_exception(self._lost[index])
                else:
                    self._asked[index, number] = answer
            self._send((number, name, arguments))
        return answers

    def ask_all(self, name: str, *arguments: object) -> list[Any]:
        """The answers to `ask`. Waits for them."""
        return [answer.result() for answer in self.ask(name, *arguments)]

    def close(self) -> None:
        """Makes the followers exit, and waits for those that are children."""
        self._is_closed = True
        with self._sending:
            self._send(None)
        for link in self._links:
            link.end()

    def _send(self, message: object) -> None:
        for link in self._links:
            # The receiving thread notices that a follower is gone.
            with contextlib.suppress(OSError):
                link.channel.send(message)

    def _receive(self, index: int, link: Link) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, is_error, value = link.channel.recv()
                with self._sending:
                    answer = self._asked.pop((index, number))
                if is_error:
                    answer.set_exception(value)
                else:
                    answer.set_result(value)
        link.channel.close()
        lost = RanksLost(f"rank {index + 1} ({link.process}) has ended")
        with self._sending:
            self._lost[index] = lost
            unanswered = [key for key in self._asked if key[0] == index]
            answers = [self._asked.pop(key) for key in unanswered]
        for answer in answers:
            answer.set_exception(lost)
        if not self._is_closed:
            self._on_lost(lost)


def gpu_of_rank(environment: Mapping[str, str], index: int) -> dict[str, str]:
    """The variables that give a follower its own GPU: of the GPUs that the leader sees, rank
    `index` uses the one at this index. Raises RanksLost if there are too few."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(number) for number in range(index + 1)]
    if index >= len(devices):
        raise RanksLost(
            f"rank {index} needs a GPU of its own, but CUDA_VISIBLE_DEVICES = {visible!r} has "
            f"{len(devices)}"
        )
    return {"CUDA_VISIBLE_DEVICES": devices[index]}
