"""Chooses how an operator is computed: by its Triton kernels, its C++ or its reference."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from segue.kernels.native import library

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def takes_kernels(x: Tensor) -> bool:
    """Whether an operator on `x` uses Triton: if `x` is in GPU memory.

    This is the only place that decides it, so a test can run a whole model's kernels interpreted.
    """
    return x.is_cuda


def takes_native(x: Tensor) -> bool:
    """Whether an operator on `x` uses C++ if it does not use Triton: on a CPU for which the library
    can be built."""
    return x.is_cpu and x.dtype in library.DTYPES and library.loaded() is not None


def operator(
    reference: Callable[Arguments, Result], triton: str | None, native: str | None = None
) -> Callable[Arguments, Result]:
    """`reference`, or the function of the same name in a module next to it: in `triton` on a GPU,
    in `native` on a CPU.

    The operator's first argument decides, and `native` may leave inputs to the reference
    (`UnsuitableInputs`). A module is imported on first use: not every machine has Triton, or a C++
    compiler.
    """
    folder = reference.__module__.rpartition(".")[0]

    @functools.cache
    def of(module: str) -> Any:
        return getattr(importlib.import_module(f"{folder}.{module}"), reference.__name__)

    @functools.wraps(reference)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        first: Any = args[0]
        chosen: Callable[Arguments, Result] = reference
        if takes_kernels(first):
            chosen = of(triton) if triton else reference
        elif native and takes_native(first):
            chosen = of(native)
        try:
            return chosen(*args, **kwargs)
        except library.UnsuitableInputs:
            pass
        return reference(*args, **kwargs)

    return run
