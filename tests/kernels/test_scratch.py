"""Memory that an operator reuses: the same in a thread's next call, but not in another thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from segue.kernels.scratch import scratch_memory

LIKE = torch.empty(0)
SHAPE = (1 << 8, 1 << 10)


def address(shape: tuple[int, ...] = SHAPE) -> int:
    memory = scratch_memory(shape, LIKE)
    assert memory is not None
    assert (memory.shape, memory.dtype) == (shape, LIKE.dtype)
    return memory.data_ptr()


def test_the_next_call_gets_the_same_memory_and_another_thread_its_own() -> None:
    first = address()
    assert address((1 << 6, 1 << 10)) == first
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(address).result() != first
    assert address() == first


def test_very_small_and_very_large_memory_is_not_kept() -> None:
    assert scratch_memory((8,), LIKE) is None
    assert scratch_memory((1 << 30, 1 << 10), LIKE) is None


def test_it_may_be_written_inside_and_outside_inference_mode() -> None:
    with torch.inference_mode():
        memory = scratch_memory((3, 1 << 17), LIKE)
        assert memory is not None
        memory.fill_(1)
    memory = scratch_memory((3, 1 << 17), LIKE)
    assert memory is not None
    memory.fill_(2)
