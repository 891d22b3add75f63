from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segue.cache.huge_pages import on_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def bytes_on_huge_pages() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages"))


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="this system has no transparent huge pages",
)
def test_a_large_tensor_is_on_huge_pages_once_written() -> None:
    before = bytes_on_huge_pages()
    tensor = on_huge_pages(torch.empty(64 << 20, dtype=torch.uint8)).zero_()

    assert not tensor.any()
    # The kernel gives what it has: memory may be too scattered for all of it.
    assert bytes_on_huge_pages() - before > 8 << 20


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, (2 << 20) + 1])
def test_a_small_tensor_is_left_alone(num_bytes: int) -> None:
    tensor = torch.arange(num_bytes) % 7

    assert on_huge_pages(tensor) is tensor
    assert torch.equal(tensor, torch.arange(num_bytes) % 7)
