"""What a launch of a kernel was compiled for, so that tests can say which of them were compared."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from segue.kernels.compile_case import CompileCase
from segue.kernels.dependent_launch import ARGUMENT

# The interpreter has no bfloat16: see device.py.
_TYPES = {
    torch.float16: "*bf16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """Two of them that are equal run the same code, but for the alignment of integers."""

    kernel: str
    constants: frozenset[tuple[str, object]]
    """Also pointers that are not passed, which are None. Not whether it is launched as a dependent:
    what is compiled for a GPU is, what is interpreted is not."""
    pointers: frozenset[tuple[str, str]]
    num_warps: int
    num_stages: int

    @classmethod
    def of_case(cls, case: CompileCase) -> Launch:
        return cls(
            kernel=_name(case.kernel.fn),
            constants=frozenset(case.all_constants.items()),
            pointers=frozenset((n, kind) for n, kind in case.arguments.items() if kind[0] == "*"),
            num_warps=case.num_warps,
            num_stages=case.num_stages,
        )

    @classmethod
    def of_call(cls, kernel: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Launch:
        parameters = inspect.signature(kernel).parameters
        named = {**dict(zip(parameters, args, strict=False)), **options}
        constants = {
            name: named[name]
            for name, parameter in parameters.items()
            if ("constexpr" in str(parameter.annotation) and name != ARGUMENT)
            or named[name] is None
        }
        pointers = {
            name: _TYPES[value.dtype]
            for name, value in named.items()
            if isinstance(value, torch.Tensor)
        }
        return cls(
            kernel=_name(kernel),
            constants=frozenset(constants.items()),
            pointers=frozenset(pointers.items()),
            num_warps=options.get("num_warps", 4),
            num_stages=options.get("num_stages", 3),
        )


def record(patch: pytest.MonkeyPatch) -> set[Launch]:
    """A set that gets every launch of an interpreted kernel from now on."""
    seen: set[Launch] = set()
    run = GridExecutor.__call__

    def call(self: Any, *args: Any, **options: Any) -> None:
        seen.add(Launch.of_call(self.fn, args, options))
        run(self, *args, **options)

    patch.setattr(GridExecutor, "__call__", call)
    return seen


def _name(kernel: Any) -> str:
    return f"{kernel.__module__}.{kernel.__name__}"
