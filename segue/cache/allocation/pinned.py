"""Page-locked host memory of the wanted size.

torch's own pinned memory comes in blocks of powers of two: a tier of several tensors would take up
to twice what is configured. So this allocates one block as usual and locks it in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from segue.cache.allocation.huge_pages import on_huge_pages

_ALIGNMENT = 4096
"""Of each tensor, so that no two of them share a page."""


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
