"""Which cores a worker keeps to, and how many threads follow."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from decode_worker.config import DecodeConfig
from prefill_worker.config import PrefillConfig
from segue.api.errors import InvalidConfig
from segue.api.types import Role
from segue.engine.config import EngineConfig
from segue.launch.config import Config
from segue.launch.prepare import most_threads
from segue.process.control_groups import read_quota
from segue.process.cores import UsableCores, core_lists, listed, separated

EIGHT = UsableCores(frozenset(range(8)))


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ("", []),
        ("all", []),
        ("3", [{3}]),
        ("0-3,8", [{0, 1, 2, 3, 8}]),
        (" 4-5, 7", [{4, 5, 7}]),
        ("0-1; 2-3", [{0, 1}, {2, 3}]),
    ],
)
def test_a_text_lists_cores(text: str, lists: list[set[int]]) -> None:
    assert [set(one) for one in core_lists(text)] == lists


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "0-", "0,,1", "0-3;", "0-99999", "0..3", "All"])
@pytest.mark.parametrize("config", [EngineConfig, PrefillConfig, DecodeConfig])
def test_other_texts_are_refused(text: str, config: type[EngineConfig]) -> None:
    with pytest.raises(ValueError, match=r'cores must be "all" or list .* as in "0-3,8"'):
        config(cores=text)


@pytest.mark.parametrize("cores", [{0}, {0, 1}, {0, 2, 3, 4, 9}, {7, 8, 63}])
def test_what_is_listed_reads_back(cores: set[int]) -> None:
    assert [set(one) for one in core_lists(listed(cores))] == [cores]


@pytest.mark.parametrize(
    ("settings", "quota", "threads_are_set", "expected"),
    [
        # Nothing said: all cores, unless the environment says how many threads.
        ({}, math.inf, False, ("0-7", 8)),
        ({}, math.inf, True, ("0-7", 0)),
        ({"cores": "all"}, math.inf, True, ("0-7", 8)),
        ({"cores": "4-6"}, math.inf, True, ("4-6", 3)),
        # A container may use less of them than it sees.
        ({}, 2.5, False, ("0-7", 2)),
        ({}, 0.3, False, ("0-7", 1)),
        ({"cores": "4-6"}, 2.0, False, ("4-6", 2)),
        # Ranks share the cores.
        ({"tensor_parallel": 2}, math.inf, False, ("0-7", 4)),
        ({"tensor_parallel": 4, "cores": "1"}, math.inf, False, ("1", 1)),
        ({"num_threads": 5, "cores": "0-1"}, 1.0, False, ("0-1", 5)),
        ({"num_threads": 5}, 1.0, True, ("0-7", 5)),
    ],
)
def test_threads_follow_from_cores(
    settings: dict[str, object], quota: float, threads_are_set: bool, expected: tuple[str, int]
) -> None:
    engine = EngineConfig(**settings)  # type: ignore[arg-type]  # settings by name

    settled = engine.on(replace(EIGHT, quota=quota), threads_are_set=threads_are_set)

    assert (settled.cores, settled.num_threads) == expected


def test_cores_that_are_not_there_are_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidConfig, match=r"'6-9' names 8-9, but .* only 0-7: name some"):
        EngineConfig(cores="6-9").on(EIGHT, threads_are_set=False)


def test_a_worker_started_by_hand_needs_a_list_of_its_own() -> None:
    with pytest.raises(InvalidConfig, match=r"a list for each of 2 workers.*name this worker's"):
        EngineConfig(cores="0-1;2-3").on(EIGHT, threads_are_set=False)


def test_each_worker_of_a_role_has_its_list_and_then_they_start_anew() -> None:
    config = Config(
        engine=EngineConfig(cores="0-1"),
        decode=DecodeConfig(cores="2-3;4-5"),
        prefill=PrefillConfig(),
    )

    def cores(role: Role, index: int) -> str:
        one = config.of_worker(role, index)
        return one.engines[role].cores

    assert [cores(Role.DECODE, index) for index in range(3)] == ["2-3", "4-5", "2-3"]
    assert [cores(Role.PREFILL, index) for index in range(2)] == ["0-1", "0-1"]
    assert separated("all") == ["all"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_the_launcher_refuses_cores_that_this_machine_does_not_have() -> None:
    own = sorted(os.sched_getaffinity(0))

    for cores in (f"{own[-1]}-9999", f"{own[0]};9999"):
        with pytest.raises(InvalidConfig, match=rf"may use only {listed(own)}"):
            most_threads(Config(decode=DecodeConfig(cores=cores)))
    assert most_threads(Config(prefill=PrefillConfig(cores=f"{own[0]}"))) <= len(own)
    assert most_threads(Config(engine=EngineConfig(cores=f"{own[0]}"))) == 1


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b\n", {}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2.5),
        ("0::/a\n", {"cpu.max": "400000 100000", "a/cpu.max": "100000 50000"}, 2.0),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"},
            1.5,
        ),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
    ],
)
def test_the_tightest_quota_counts(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    assert read_quota(tmp_path) == quota


_KEPT = """
import os, sys, threading
import torch
from kv_transfer.ranks.starting import _on_its_cores
from segue.engine.config import EngineConfig

over = threading.Event()
threading.Thread(target=over.wait, daemon=True).start()
engine = _on_its_cores(EngineConfig(cores=sys.argv[1], num_threads=2))
torch.set_num_threads(engine.num_threads)
x = torch.ones(512, 512)
thread = threading.Thread(target=lambda: (x + x, over.wait()), daemon=True)
thread.start()
(x @ x).sum()
print(engine.cores, *{tuple(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_all_threads_of_a_worker_keep_to_its_cores() -> None:
    core = max(os.sched_getaffinity(0))

    done = subprocess.run(
        [sys.executable, "-c", _KEPT, str(core)], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [str(core), f"({core},)"]
