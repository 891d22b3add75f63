"""Copying tensors out of mapped checkpoint files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segue.model.checkpoint import tensors
from segue.model.checkpoint.tensors import copy_mapped, open_checkpoint

MIB = 1 << 20


def mapped_bytes() -> int:
    """Of files, in this process' resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take memory back themselves")
def test_a_copied_tensor_is_no_longer_in_memory_twice(tmp_path: Path) -> None:
    stored = torch.arange(16 * MIB, dtype=torch.float32).view(1024, -1)
    save_file({"large": stored}, tmp_path / "model.safetensors")
    place = torch.empty_like(stored)

    with open_checkpoint(tmp_path) as checkpoint:
        before = mapped_bytes()
        copy_mapped(place, checkpoint.read("large"))
        after = mapped_bytes()

    assert torch.equal(place, stored)
    assert after - before < 8 * MIB < stored.nbytes


@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (3, 2, 4)])
def test_blocks_of_a_tensor_are_the_whole(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than a row: blocks of one row each.
    monkeypatch.setattr(tensors, "_BLOCK_BYTES", 8)
    stored = {name: torch.randn(shape) for name in ("first", "second")}
    save_file(stored, tmp_path / "model.safetensors")
    places = {name: torch.zeros(shape, dtype=torch.bfloat16) for name in stored}

    with open_checkpoint(tmp_path) as checkpoint:
        for name, place in places.items():
            copy_mapped(place, checkpoint.read(name))

    for name, place in places.items():
        assert torch.equal(place, stored[name].to(torch.bfloat16))
