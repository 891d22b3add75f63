"""Memory in pages of 2 MiB, for what is read from end to end in every step.

With pages of 4 KiB a core looks up a translation every 64 cache lines. Linux gives large pages only
to memory that asks for them, before it is first written.
"""

from __future__ import annotations

import ctypes
import sys

from torch import Tensor

_HUGE = 2 << 20
_MADV_HUGEPAGE = 14


def on_huge_pages(tensor: Tensor) -> Tensor:
    """The tensor, whose memory nobody has written yet. What is not on a CPU, or smaller than a
    page, stays as it is; so does everything where the system has no such pages."""
    if tensor.is_cpu and sys.platform == "linux":
        start = -(-tensor.data_ptr() // _HUGE) * _HUGE
        size = (tensor.data_ptr() + tensor.nbytes) // _HUGE * _HUGE - start
        if size > 0:
            libc = ctypes.CDLL(None)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    return tensor
