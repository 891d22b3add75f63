"""`segue drain`, against a router without a cluster."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from segue.api.cluster.drain import DrainReport, LeftReason
from segue.api.cluster.status import ClusterStatus, RouterStatus, WorkerHealth, WorkerStatus
from segue.api.types import Epoch, Role, WorkerId
from segue.cli.operate import report_json, workers_at
from segue.cli.upgrade import start_line
from tests.cli.conftest import Command
from tests.cli.fake_router import fake_router


def at(name: str, address: str, health: WorkerHealth = WorkerHealth.READY) -> WorkerStatus:
    role = Role(name.partition("-")[0])
    return WorkerStatus(
        worker_id=WorkerId(name), role=role, epoch=Epoch(1), address=address, health=health
    )


def test_a_drains_report_is_one_line() -> None:
    assert str(DrainReport()) == "0 turns ended, 0 sessions moved"
    report = DrainReport(
        ended_turns=1,
        moved_turns=2,
        moved_sessions=1,
        moved_bytes=2048,
        left={LeftReason.NO_MEMORY: 2, LeftReason.ELSEWHERE: 1},
    )
    assert str(report) == (
        "1 turn ended, 2 turns went on elsewhere, 1 session moved (2 KiB), "
        "1 session needed no move, 2 sessions not moved (2 no memory elsewhere)"
    )
    assert str(DrainReport(left={LeftReason.ELSEWHERE: 4})) == (
        "0 turns ended, 0 sessions moved, 4 sessions needed no move"
    )
    assert json.loads(report_json(report))["left"] == {"no_memory": 2, "elsewhere": 1}


def test_a_pods_drain_takes_its_own_ready_workers() -> None:
    cluster = ClusterStatus(
        ready=True,
        model="m",
        model_id="",
        workers=(
            at("decode-0", "10.0.0.1:7430"),
            at("decode-1", "10.0.0.12:7430"),
            at("decode-2", "10.0.0.1:7431", WorkerHealth.LOST),
            at("decode-3", "[fd00::1]:7430"),
        ),
        router=RouterStatus(address="r:1"),
    )

    found = [workers_at(host, cluster) for host in ("10.0.0.1", "fd00::1", "10.0.0.3")]

    assert found == [["decode-0"], ["decode-3"], []]


def test_the_transcripts_in_the_documentation_have_the_commands_words() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    drained = DrainReport(
        ended_turns=3,
        moved_turns=1,
        moved_sessions=12,
        moved_bytes=8210 * 1024,
        left={LeftReason.ELSEWHERE: 4},
    )
    time = datetime(2026, 11, 29, 23, 12, 22, 157_000, UTC)

    assert f"$ segue drain decode-0\ndrained: {drained}\n" in text
    assert f"\n23:12:22 {start_line(time)}\n" in text
    assert f"drained in 0.4 s: {DrainReport(ended_turns=2)}\n" in text


WORKERS = (
    at("prefill-0", "10.0.0.1:7420"),
    at("decode-0", "10.0.0.2:7430"),
    at("decode-1", "10.0.0.2:7431"),
    at("decode-2", "10.0.0.3:7430", WorkerHealth.WARMING),
    at("decode-3", "10.0.0.4:7430", WorkerHealth.DRAINING),
)
"""Two decode workers are ready, on one host."""


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (
            ("prefill-0",),
            "expected at least two prefill workers, all ready, so that one serves while the other "
            "restarts, got only prefill-0: start two with --prefill 2,",
        ),
        (
            ("--host", "10.0.0.2"),
            "expected at least 3 decode workers, all ready, so that one serves while the others "
            "restart, got only decode-0 and decode-1: start 3 with --decode 3,",
        ),
    ],
)
def test_the_last_ready_workers_of_a_role_are_not_drained_unless_that_is_accepted(
    run_here: Command, arguments: tuple[str, ...], refusal: str
) -> None:
    with fake_router() as router:
        router.workers = WORKERS
        refused = run_here("drain", *arguments, "--target", router.address)
        assert router.drained == []
        accepted = run_here("drain", *arguments, "--may-interrupt", "--target", router.address)

    assert refused.returncode == 1
    assert refusal in " ".join(refused.stderr.split())
    assert "--may-interrupt" in refused.stderr
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert router.drained in (["prefill-0"], ["decode-0", "decode-1"])


# Another decode worker is ready; and a call for one that drains joins its drain.
@pytest.mark.parametrize("worker", ["decode-0", "decode-1", "decode-3"])
def test_a_worker_that_leaves_another_ready_is_drained(run_here: Command, worker: str) -> None:
    with fake_router() as router:
        router.workers = WORKERS
        done = run_here("drain", worker, "--target", router.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert router.drained == [worker]
