"""The available memory, from files in the kernel's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.engine.host_memory import MachineMemory, parse_gpu_memory, read_host_memory

GIB = 1 << 30
INFO = "MemTotal:       25165824 kB\nMemFree:         1048576 kB\nMemAvailable:   20971520 kB\n"
HOST = MachineMemory(place="this host", total_bytes=24 * GIB, free_bytes=20 * GIB)


def machine(root: Path, cgroup: str, files: dict[str, str], info: str | None = INFO) -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    if info is not None:
        (root / "proc" / "meminfo").write_text(info)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group_2(at: str, limit: str, used: int, inactive: int = 0) -> dict[str, str]:
    return {
        f"{at}memory.max": f"{limit}\n",
        f"{at}memory.current": f"{used}\n",
        f"{at}memory.stat": f"anon 5\ninactive_file {inactive}\nactive_file 3\n",
    }


def group_1(at: str, limit: int, used: int, inactive: int = 0) -> dict[str, str]:
    return {
        f"memory/{at}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{at}memory.usage_in_bytes": f"{used}\n",
        f"memory/{at}memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


def test_without_control_groups_the_hosts_memory_is_the_limit(tmp_path: Path) -> None:
    assert read_host_memory(machine(tmp_path, "", {})) == HOST


def test_groups_without_a_limit_change_nothing(tmp_path: Path) -> None:
    files = group_2("", "max", 7) | group_2("a/", "max", 7)

    assert read_host_memory(machine(tmp_path, "0::/a\n", files)) == HOST


def test_a_container_has_its_own_limit_and_its_page_cache_is_free(tmp_path: Path) -> None:
    files = group_2("", str(8 * GIB), 6 * GIB, 3 * GIB)

    assert read_host_memory(machine(tmp_path, "0::/\n", files)) == MachineMemory(
        place="this container", total_bytes=8 * GIB, free_bytes=5 * GIB
    )


def test_the_tightest_limit_of_all_parent_groups_applies(tmp_path: Path) -> None:
    files = group_2("a/b/", "max", 0) | group_2("a/", str(4 * GIB), GIB)
    root = machine(tmp_path, "0::/a/b\n", files)

    assert read_host_memory(root) == MachineMemory(
        place="this container", total_bytes=4 * GIB, free_bytes=3 * GIB
    )


def test_a_host_path_that_a_container_cannot_see_falls_back_to_its_root_group(
    tmp_path: Path,
) -> None:
    root = machine(tmp_path, "0::/kubepods/pod7/x\n", group_2("", str(2 * GIB), 0))

    assert read_host_memory(root) == MachineMemory(
        place="this container", total_bytes=2 * GIB, free_bytes=2 * GIB
    )


def test_version_1_of_control_groups_is_read_too(tmp_path: Path) -> None:
    cgroup = "9:cpu,cpuacct:/x\n4:memory:/x\n0::/\n"
    files = group_1("x/", 8 * GIB, 6 * GIB, GIB) | group_1("", 0x7FFFFFFFFFFFF000, 0)

    assert read_host_memory(machine(tmp_path, cgroup, files)) == MachineMemory(
        place="this container", total_bytes=8 * GIB, free_bytes=3 * GIB
    )


def test_a_limit_above_the_hosts_memory_only_bounds_the_free_memory(tmp_path: Path) -> None:
    files = group_2("", str(64 * GIB), 54 * GIB)

    assert read_host_memory(machine(tmp_path, "0::/\n", files)) == MachineMemory(
        place="this host", total_bytes=24 * GIB, free_bytes=10 * GIB
    )


@pytest.mark.parametrize("info", [None, "", "MemTotal: many kB\n"])
def test_without_readable_files_the_memory_is_unknown(tmp_path: Path, info: str | None) -> None:
    assert read_host_memory(machine(tmp_path, "0::/\n", {}, info)) is None


def test_of_several_gpus_the_one_with_most_free_memory_is_read() -> None:
    assert parse_gpu_memory("81559, 1024\n81559, 80000\n24576, 24000\n") == MachineMemory(
        place="the GPU", total_bytes=81559 << 20, free_bytes=80000 << 20
    )


@pytest.mark.parametrize("text", ["", "No devices were found\n", "81559\n", "[N/A], 5\n"])
def test_without_a_driver_the_gpu_memory_is_unknown(text: str) -> None:
    assert parse_gpu_memory(text) is None


def test_this_machines_memory_is_read() -> None:
    memory = read_host_memory()

    assert memory is not None
    assert 0 < memory.free_bytes <= memory.total_bytes
