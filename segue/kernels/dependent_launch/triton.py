"""Dependent launches: functions for kernels and for launches. The rules are in `__init__.py`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

ARGUMENT = "IS_DEPENDENT"
"""The constant of a kernel that takes part: whether this launch is dependent."""
PREFETCHED_BYTES = 16 << 20
"""Bytes of a weight that all programs of a kernel prefetch while they wait: at 4.8 TB/s more than
memory delivers during one launch, and less than half of the L2."""
MOST_OF_A_PROGRAM = 128 << 10
FIRST_WAVE = 1024
"""Programs that may have to wait: about as many as a GPU runs at a time. Later ones start when the
previous kernel has ended."""

_ALONE = {ARGUMENT: False}
_DEPENDENT = {ARGUMENT: True, "launch_pdl": True}
_LINE_BYTES = tl.constexpr(128)
_PREFETCHED_BYTES = tl.constexpr(PREFETCHED_BYTES)
_MOST_OF_A_PROGRAM = tl.constexpr(MOST_OF_A_PROGRAM)
_FIRST_WAVE = tl.constexpr(FIRST_WAVE)
_is_off = False


def options(device: torch.device) -> dict[str, bool]:
    """For the launch of a kernel that takes part: its constant, and Triton's option."""
    if _is_off or device.type != "cuda" or not _has_dependent_launches(device):
        return _ALONE
    return _DEPENDENT


@contextmanager
def off() -> Iterator[None]:
    """Launches in this context wait for the end of the previous kernel, for comparison."""
    global _is_off
    _is_off = True
    try:
        yield
    finally:
        _is_off = False


@functools.cache
def _has_dependent_launches(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def start(IS_DEPENDENT: tl.constexpr):
    """The first statement of a kernel that prefetches no weights."""
    signal(IS_DEPENDENT)
    wait(IS_DEPENDENT)


@triton.jit
def signal(IS_DEPENDENT: tl.constexpr):
    """Lets the next kernel's programs start when all of this kernel's have reached this line."""
    if IS_DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def wait(IS_DEPENDENT: tl.constexpr):
    """Returns when all earlier kernels have ended and their writes are visible."""
    if IS_DEPENDENT:
        gdc_wait()


@triton.jit
def prefetch(row_N_ptr, inside_N, num_columns, IS_DEPENDENT: tl.constexpr):
    """Prefetches the first columns of a tile's rows of a weight into L2, before `wait`."""
    if IS_DEPENDENT:
        NUM_ROWS: tl.constexpr = row_N_ptr.shape[0]
        LINES: tl.constexpr = _MOST_OF_A_PROGRAM // _LINE_BYTES // NUM_ROWS
        BYTES: tl.constexpr = row_N_ptr.dtype.element_ty.primitive_bitwidth // 8
        share = _PREFETCHED_BYTES // tl.minimum(tl.num_programs(0), _FIRST_WAVE)
        row_bytes = tl.minimum(share // NUM_ROWS, num_columns * BYTES)
        offsets_L = tl.arange(0, LINES) * _LINE_BYTES
        inside_N &= tl.program_id(0) < _FIRST_WAVE
        inside_NL = inside_N[:, None] & (offsets_L < row_bytes)[None, :]
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
            "=r,l,r",
            [row_N_ptr.to(tl.int64)[:, None] + offsets_L[None, :], inside_NL.to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
