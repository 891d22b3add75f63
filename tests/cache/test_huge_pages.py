from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from segue.cache.allocation import on_huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def bytes_on_huge_pages(address: int) -> int:
    """Of the mapping that contains the address; a tensor may be in memory that was used before."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_inside = int(match[1], 16) <= address < int(match[2], 16)
        elif is_inside and line.startswith("AnonHugePages"):
            return int(line.split()[1]) << 10
    raise AssertionError("the address is not mapped")


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="this system has no transparent huge pages",
)
def test_a_large_tensor_is_on_huge_pages_once_written() -> None:
    tensor = on_huge_pages(torch.empty(64 << 20, dtype=torch.uint8)).zero_()

    assert not tensor.any()
    # The kernel gives what it has: memory may be too scattered for all of it.
    assert bytes_on_huge_pages(tensor.data_ptr() + (32 << 20)) > 8 << 20


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, (2 << 20) + 1])
def test_a_small_tensor_is_left_alone(num_bytes: int) -> None:
    tensor = torch.arange(num_bytes) % 7

    assert on_huge_pages(tensor) is tensor
    assert torch.equal(tensor, torch.arange(num_bytes) % 7)
