"""Pinned memory takes what is asked for; CUDA's runtime is a fake, since this needs no GPU."""

from __future__ import annotations

import pytest
import torch

from segue.cache.allocation import pinned_tensors


class Runtime:
    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.locked: list[tuple[int, int]] = []

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        self.locked.append((address, num_bytes))
        return self.status

    def cudaGetErrorString(self, status: int) -> str:
        return f"error {status}"


SHAPES = [(3, 5), (1000, 1000), (0, 7), (2,)]
DTYPES = [torch.bfloat16, torch.float32, torch.float32, torch.float16]


def test_one_block_of_the_wanted_size_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)

    tensors = pinned_tensors(SHAPES, DTYPES)

    assert [tuple(tensor.shape) for tensor in tensors] == SHAPES
    assert [tensor.dtype for tensor in tensors] == DTYPES
    ((address, num_bytes),) = runtime.locked
    wanted = sum(tensor.nbytes for tensor in tensors)
    assert wanted <= num_bytes < wanted + 4096 * len(tensors)
    for number, tensor in enumerate(tensors):
        assert tensor.is_contiguous()
        if len(tensor):
            assert address <= tensor.data_ptr()
            assert tensor.data_ptr() + tensor.nbytes <= address + num_bytes
        tensor.fill_(number)
    assert [set(tensor.flatten().tolist()) for tensor in tensors] == [{0}, {1}, set(), {3}]


def test_memory_that_cannot_be_locked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(status=2))

    with pytest.raises(RuntimeError, match=r"cannot be locked .*error 2.*host_cache_bytes"):
        pinned_tensors(SHAPES, DTYPES)
