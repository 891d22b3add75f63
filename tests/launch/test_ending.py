"""What Ray leaves when it ends is ended too, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from segue.launch.ray.ending import descendants_of, end_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
STUBBORN = "trap '' TERM; echo; while :; do sleep 0.1; done"


def wait_until_gone(pids: set[int]) -> None:
    ends_at = time.monotonic() + 10.0
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def test_a_child_that_its_parent_leaves_behind_is_killed() -> None:
    # As a raylet and its agents.
    parent = subprocess.Popen(
        ["sh", "-c", f'sh -c "{STUBBORN}" & wait'], stdout=subprocess.PIPE, text=True
    )
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        started = descendants_of({parent.pid})
        pids = {pid for pid, _ in started}
        assert len(pids) >= 2
        assert bystander.pid not in pids

        parent.kill()
        parent.wait()
        # By now the child has another parent.
        end_processes(started, grace_s=0.1)

        wait_until_gone(pids)
        assert bystander.poll() is None
    finally:
        parent.communicate()
        bystander.kill()
        bystander.wait()


def test_those_that_end_by_themselves_are_waited_for_and_not_killed() -> None:
    ending = subprocess.Popen(["sh", "-c", "sleep 0.2; exit 7"])

    end_processes(descendants_of({ending.pid}), grace_s=10.0)

    assert ending.wait(0) == 7


def test_a_process_that_got_the_id_of_another_is_left_alone() -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        end_processes({(other.pid, "0")}, grace_s=0.0)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
