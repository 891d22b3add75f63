"""Processes for the ranks of a group, forked from one that has imported torch once."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from segue.parallel.group import Group, Meeting, join_ranks
from segue.parallel.network import listening_on
from segue.parallel.rank import Rank

HOST = "127.0.0.1"

Job = Callable[..., Any]
"""A module's function: its first argument is the group."""


class RankProcesses:
    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections

    def run(self, job: Job, *arguments: object, count: int, expert_groups: int = 1) -> list[Any]:
        """What `job(group, *arguments)` returns on each rank."""
        meeting = None
        for index, connection in enumerate(self._connections[:count]):
            rank = Rank(index=index, count=count, expert_groups=expert_groups)
            connection.send((rank, meeting, job, arguments))
            # The first rank sends its address.
            meeting = meeting or connection.recv()
        replies = [connection.recv() for connection in self._connections[:count]]
        assert all(is_result for is_result, _ in replies), "\n".join(
            str(reply) for is_result, reply in replies if not is_result
        )
        return [reply for _, reply in replies]


@contextlib.contextmanager
def rank_processes(num_ranks: int) -> Iterator[RankProcesses]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.parallel.rank_processes", "tests.parallel.jobs"])
    connections, processes = [], []
    for _ in range(num_ranks):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        connections.append(ours)
        processes.append(process)
    try:
        yield RankProcesses(connections)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join(10)
            process.kill()
            process.join()


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            rank, meeting, job, arguments = connection.recv()
            listening = None
            if meeting is None:
                listening = listening_on(HOST)
                meeting = Meeting(HOST, listening.getsockname()[1])
                connection.send(meeting)
            try:
                group: Group = join_ranks(rank, "cpu", meeting, host=HOST, listening=listening)
                reply = (True, job(group, *arguments))
            except Exception:
                reply = (False, f"rank {rank.index}: {traceback.format_exc()}")
            connection.send(reply)
