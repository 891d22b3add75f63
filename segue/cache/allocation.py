"""Allocates the memory of caches and weights: in huge pages, and page-locked for a GPU.

Memory that every step reads completely is in pages of 2 MiB. With pages of 4 KiB a core looks up a
translation every 64 cache lines. Linux gives huge pages only to memory that asks for them, before
it is first written.

torch's own pinned memory comes in blocks of powers of two: a tier of several tensors would take up
to twice what is configured. So `pinned_tensors` allocates one block as usual and locks it in place.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

_HUGE = 2 << 20
_MADV_HUGEPAGE = 14
_ALIGNMENT = 4096
"""Alignment of each tensor: no two of them share a page."""


def on_huge_pages(tensor: Tensor) -> Tensor:
    """Asks for huge pages for a tensor that has not been written yet, and returns it. Does nothing
    for a tensor that is smaller than a page or not on a CPU, or on a system without such pages."""
    if tensor.is_cpu and sys.platform == "linux":
        start = -(-tensor.data_ptr() // _HUGE) * _HUGE
        size = (tensor.data_ptr() + tensor.nbytes) // _HUGE * _HUGE - start
        if size > 0:
            libc = ctypes.CDLL(None)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    return tensor


def pinned_tensors(
    shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype]
) -> list[Tensor]:
    """Unwritten tensors in one block of memory, which stays locked as long as the process lives.
    Raises RuntimeError with CUDA's reason if it cannot be locked, as when the system's limit of
    locked memory is lower."""
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
    places = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    block = on_huge_pages(torch.empty(sum(places) + _ALIGNMENT, dtype=torch.uint8))
    first = -block.data_ptr() % _ALIGNMENT
    _lock(block.data_ptr() + first, sum(places))
    starts = accumulate(places, initial=first)
    return [
        block[start : start + size].view(dtype).view(shape)
        for start, size, dtype, shape in zip(starts, sizes, dtypes, shapes, strict=False)
    ]


def _lock(address: int, num_bytes: int) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's
    status = runtime.cudaHostRegister(address, num_bytes, 0) if num_bytes else 0
    if int(status):
        raise RuntimeError(
            f"{num_bytes} bytes of host memory cannot be locked for a GPU "
            f"({runtime.cudaGetErrorString(status)}): lower [engine] host_cache_bytes, or raise "
            "the limit of locked memory (ulimit -l)"
        )
