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
"""A variant to use instead of the processor's best, or "reference" for plain PyTorch."""

_SUFFIXES = {torch.float32: "float", torch.bfloat16: "bf16"}
DTYPES = frozenset(_SUFFIXES)
_TYPES = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_long,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
}


class UnsuitableInputs(Exception):
    """Raised by an operator for inputs that its C++ does not take, before it changes any memory.
    The reference computes them."""


@lru_cache
def variant() -> str | None:
    """The variant that runs here; None for plain PyTorch. Raises ValueError if `VARIABLE` asks for
    one that this processor cannot run."""
    asked, known = os.environ.get(VARIABLE), build.own_variants()
    if not asked:
        return known[0] if known else None
    if asked != "reference" and asked not in known:
        raise ValueError(
            f"{VARIABLE} must be one of {', '.join([*known, 'reference'])}, got {asked}"
        )
    return asked if asked in known else None


@lru_cache
def loaded() -> ctypes.CDLL | None:
    """None for plain PyTorch. If the library cannot be built here, a warning says why."""
    name = variant()
    if name is None:
        return None
    try:
        path = build.find_or_build(name)
        library = ctypes.CDLL(str(path))
    except (build.NoCompiler, OSError) as error:
        logger.warning(
            "CPU operators run in plain PyTorch, two to three times slower",
            extra={"reason": str(error)},
        )
        return None
    logger.info("CPU operators loaded", extra={"variant": name, "path": str(path)})
    return library


@lru_cache
def longs(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_long]:
    """An argument that is a pointer to these."""
    return (ctypes.c_long * len(values))(*values)


def are_plain(dtype: torch.dtype, *tensors: Tensor) -> bool:
    """Whether all are contiguous and of this dtype, as the operators read them."""
    return all(x.dtype is dtype and x.is_contiguous() for x in tensors)


def operators(name: str, arguments: str) -> Callable[[torch.dtype], Callable[..., None]]:
    """Finds the operator for a dtype. `arguments`: a letter for each: p pointer, l long, i int, f
    float. The number of threads follows them."""

    @lru_cache
    def of(dtype: torch.dtype) -> Callable[..., None]:
        library = loaded()
        assert library is not None, "an operator was called without its library"
        pointer = ctypes.c_void_p.in_dll(library, f"segue_{name}_{_SUFFIXES[dtype]}")
        types = [_TYPES[letter] for letter in (*arguments, "i")]
        function = ctypes.CFUNCTYPE(ctypes.c_int, *types)(pointer.value or 0)

        def checked(*values: object) -> None:
            if function(*values, torch.get_num_threads()):
                raise IndexError(f"{name}: a page, offset or slot is out of range")

        return checked

    return of
