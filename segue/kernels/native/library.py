"""The library of CPU operators, loaded when an operator first asks for it."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from segue.kernels.native import build

logger = logging.getLogger(__name__)

VARIABLE = "SEGUE_CPU_OPERATORS"
"""Set to "reference", nothing is built or loaded, and the plain PyTorch operators run."""

_SUFFIXES = {torch.float32: "float", torch.bfloat16: "bf16"}
_TYPES = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_long,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
}


@lru_cache
def loaded() -> ctypes.CDLL | None:
    """None if the library is switched off, or cannot be built here; a warning says why."""
    if os.environ.get(VARIABLE) == "reference":
        return None
    variant = build.own_variant()
    if variant is None:
        return None
    try:
        path = build.find_or_build(variant)
        library = ctypes.CDLL(str(path))
    except (build.NoCompiler, OSError) as error:
        logger.warning(
            "CPU operators run in plain PyTorch, some two times slower", extra={"reason": str(error)}
        )
        return None
    logger.info("CPU operators loaded", extra={"variant": variant, "path": str(path)})
    return library


@lru_cache
def longs(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_long]:
    """An argument that is a pointer to these."""
    return (ctypes.c_long * len(values))(*values)


def are_plain(dtype: torch.dtype, *tensors: Tensor) -> bool:
    """Whether all are contiguous and of this dtype, as the operators read them."""
    return all(x.dtype is dtype and x.is_contiguous() for x in tensors)


def operators(name: str, arguments: str) -> Callable[[torch.dtype], Callable[..., None]]:
    """Finds the operator for a dtype. `arguments`: a letter for each one but the last, the number
    of threads: p pointer, l long, i int, f float."""

    @lru_cache
    def of(dtype: torch.dtype) -> Callable[..., None]:
        library = loaded()
        assert library is not None, "an operator was called without its library"
        pointer = ctypes.c_void_p.in_dll(library, f"segue_{name}_{_SUFFIXES[dtype]}")
        types = [_TYPES[letter] for letter in (*arguments, "i")]
        function = ctypes.CFUNCTYPE(ctypes.c_int, *types)(pointer.value)

        def checked(*values: object) -> None:
            if function(*values):
                raise IndexError(f"{name}: a page, offset or slot is out of range")

        return checked

    return of
