"""The leader's connection to its followers, with real processes that hold no model."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.parallel.followers import Followers, gpu_of_rank
from segue.parallel.rank import RanksLost

MODULE = "tests.parallel.echo_follower"
PATIENCE_S = 30.0


@contextlib.contextmanager
def following(*names: str) -> Iterator[tuple[Followers, queue.SimpleQueue[RanksLost]]]:
    lost: queue.SimpleQueue[RanksLost] = queue.SimpleQueue()
    followers = Followers.start(MODULE, names, lost.put, [{}] * len(names))
    try:
        yield followers, lost
    finally:
        followers.close()


def test_all_followers_receive_messages_in_order_and_answer() -> None:
    with following("a", "b") as (followers, lost):
        assert followers.ask_all("name") == ["a", "b"]
        for number in range(100):
            followers.tell("note", number)
        slow = followers.ask("later", "slow")
        assert followers.ask_all("noted") == [list(range(100))] * 2
        assert [answer.result(PATIENCE_S) for answer in slow] == ["slow", "slow"]
        with pytest.raises(ValueError, match="cannot answer"):
            followers.ask_all("fail", "cannot answer")
        # An error in `ask` is the answer; the follower continues.
        assert followers.ask_all("name") == ["a", "b"]
    assert lost.empty()


def test_a_dead_follower_fails_pending_and_later_calls() -> None:
    with following("a", "b") as (followers, lost):
        assert followers.ask_all("name") == ["a", "b"]
        waiting = followers.ask("never")

        os.kill(followers.pids[1], signal.SIGKILL)

        error = lost.get(timeout=PATIENCE_S)
        assert "rank 2" in str(error)
        with pytest.raises(RanksLost, match="rank 2"):
            waiting[1].result(PATIENCE_S)
        assert not waiting[0].done()
        first, second = followers.ask("name")
        assert first.result(PATIENCE_S) == "a"
        with pytest.raises(RanksLost):
            second.result(PATIENCE_S)


def test_a_follower_that_fails_without_an_answer_exits() -> None:
    with following("a") as (followers, lost):
        followers.tell("fail", "cannot follow")

        assert "rank 1" in str(lost.get(timeout=PATIENCE_S))


def test_followers_exit_with_their_leader() -> None:
    code = (
        "import time\n"
        "from segue.parallel.followers import Followers\n"
        f"f = Followers.start({MODULE!r}, ['a'], print, [{{}}])\n"
        "f.ask_all('name')\n"
        "print(*f.pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        follower = int(leader.stdout.readline())
        leader.kill()

    deadline_at = time.monotonic() + PATIENCE_S
    while is_running(follower):
        assert time.monotonic() < deadline_at
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_rank_sees_one_gpu_of_its_leaders() -> None:
    assert gpu_of_rank({}, 2) == {"CUDA_VISIBLE_DEVICES": "2"}
    assert gpu_of_rank({"CUDA_VISIBLE_DEVICES": "4,6,7"}, 1) == {"CUDA_VISIBLE_DEVICES": "6"}
    with pytest.raises(RanksLost, match="rank 1 needs a GPU of its own"):
        gpu_of_rank({"CUDA_VISIBLE_DEVICES": "4"}, 1)
