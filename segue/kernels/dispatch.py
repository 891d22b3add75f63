"""What computes an operator: its Triton kernels or its reference."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def takes_kernels(x: Tensor) -> bool:
    """Whether an operator on `x` uses Triton: if `x` is in GPU memory.

    This is the only place that decides it, so a test can run a whole model's kernels interpreted.
    """
    return x.is_cuda


def operator(reference: Callable[Arguments, Result], module: str) -> Callable[Arguments, Result]:
    """`reference`, or on a GPU the function of the same name in `module`, next to it.

    The operator's first argument decides. The module is imported on first use: not every machine
    has Triton.
    """
    folder = reference.__module__.rpartition(".")[0]

    @functools.cache
    def kernels() -> Any:
        return getattr(importlib.import_module(f"{folder}.{module}"), reference.__name__)

    @functools.wraps(reference)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        first: Any = args[0]
        chosen = kernels() if takes_kernels(first) else reference
        return chosen(*args, **kwargs)

    return run
