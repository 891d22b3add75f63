"""Memory that a process retains: Python objects out of garbage collection, and freed C blocks."""

from __future__ import annotations

import ctypes
import gc

# glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 1 << 30
# Threads other than the first have heaps of 64 MiB, and retain an empty one below this size.
_KEPT_HEAP_BYTES = 128 << 20


def settle_heap() -> None:
    """Takes the existing objects, mostly those of modules, out of garbage collection. Each full
    collection would scan all of them, and stop an event loop for 40 ms.
    """
    gc.collect()
    gc.freeze()


def keep_freed_memory() -> None:
    """Makes the process retain up to 1 GiB of freed memory for its next large blocks.

    glibc returns large blocks to the system, and each page that it gets again must first be cleared
    and mapped: the temporaries of a pass over 512 prompt tokens have some 20,000 pages, whose
    faults take up to a tenth of its time. Does nothing with another C library.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        set_option(_M_TOP_PAD, _KEPT_HEAP_BYTES)


def give_freed_memory_back() -> None:
    """Returns freed memory to the system. Does nothing with a C library other than glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
