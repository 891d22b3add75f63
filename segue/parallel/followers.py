"""The processes of a worker's other ranks, as its leader sees them.

Each follower has a connection to the leader. Either end sees at once that the other is gone, and
neither can do anything alone: a lost follower ends the leader, and the end of the leader ends its
followers.

    tell(name, …)   to all followers, without an answer: in order, before whatever is sent later
    ask(name, …)    to all followers, each of which answers
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
    """Whole objects in order. One thread sends while another one receives: a pipe, or a
    `MessageChannel`."""

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
    """In messages: its process id, or its name."""
    child: subprocess.Popen[bytes] | None = None
    """None if another process has started it. It then ends with this process, or when another
    leader asks for it."""

    def end(self) -> None:
        """After it was asked to end."""
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
        """In rank order. `on_lost` is called on a thread of its own, if a follower ends before
        `close`."""
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
        """A child of this process for each setup, which is the first thing that it receives. It
        runs `module`, with the number of its end of a pipe."""
        links = []
        for setup, environment in zip(setups, environments, strict=True):
            ours, theirs = Pipe()
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
            )
            theirs.close()
            with contextlib.suppress(OSError):
                # If it has ended already, that is seen below.
                ours.send(setup)
            links.append(Link(ours, f"process {process.pid}", process))
        return cls(links, on_lost)

    @property
    def pids(self) -> list[int]:
        """Of the children."""
        return [link.child.pid for link in self._links if link.child is not None]

    def tell(self, name: str, *arguments: object) -> None:
        with self._sending:
            self._send((TELL, name, arguments))

    def ask(self, name: str, *arguments: object) -> list[Future[Any]]:
        """One answer for each follower, in rank order. They raise what the follower raised, or
        RanksLost."""
        with self._sending:
            number = next(self._numbers)
            answers: list[Future[Any]] = [Future() for _ in self._links]
            for index, answer in enumerate(answers):
                # So that a cancelled caller cannot cancel it under the receiving thread.
                answer.set_running_or_notify_cancel()
                if index in self._lost:
                    answer.set_exception(self._lost[index])
                else:
                    self._asked[index, number] = answer
            self._send((number, name, arguments))
        return answers

    def ask_all(self, name: str, *arguments: object) -> list[Any]:
        """As `ask`; waits for the answers."""
        return [answer.result() for answer in self.ask(name, *arguments)]

    def close(self) -> None:
        """Ends the followers."""
        self._is_closed = True
        with self._sending:
            self._send(None)
        for link in self._links:
            link.end()

    def _send(self, message: object) -> None:
        for link in self._links:
            # The receiving thread sees that a follower is gone.
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
    """What a follower's environment adds to its leader's: it sees one GPU of those that the leader
    sees, of which the leader uses the first."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(number) for number in range(index + 1)]
    if index >= len(devices):
        raise RanksLost(
            f"rank {index} needs a GPU of its own, but CUDA_VISIBLE_DEVICES = {visible!r} has "
            f"{len(devices)}"
        )
    return {"CUDA_VISIBLE_DEVICES": devices[index]}
