"""Memory that operators on a CPU reuse in each call.

The allocator returns large temporaries to the system and gets them back page by page: for a gather
of some megabytes that takes longer than the gather.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

# The allocator keeps smaller ones, and larger ones should not be kept.
_MIN_BYTES, _MAX_BYTES = 1 << 17, 1 << 26
_kept = threading.local()


def scratch_memory(shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    """Uninitialised elements of the dtype and on the device of `like`, which the thread's next call
    returns again. None for sizes that are better allocated."""
    num_bytes = math.prod(shape) * like.element_size()
    if not _MIN_BYTES < num_bytes <= _MAX_BYTES:
        return None
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or memory.device != like.device or len(memory) < num_bytes:
        # Usable inside and outside inference mode.
        with torch.inference_mode(False):
            memory = torch.empty(num_bytes, dtype=torch.uint8, device=like.device)
        _kept.memory = memory
    return memory[:num_bytes].view(like.dtype).view(shape)
