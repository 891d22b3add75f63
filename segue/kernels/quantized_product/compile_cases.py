"""The sizes at which products with quantised weights are compiled ahead of time: Qwen3.5-27B's MLP
in FP8 and NVFP4, Qwen3.5-397B-A17B's experts in NVFP4 and Qwen3.5-35B-A3B's in FP8."""

from __future__ import annotations

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.moe.compile_cases import TABLES
from segue.kernels.moe.triton_experts import MOST_QUANTIZED_ROWS, experts_kernel
from segue.kernels.product.compile_cases import WEIGHTS
from segue.kernels.product.tiling import QUANTIZED, QUANTIZED_ROWS
from segue.kernels.product.triton import product_kernel

_FORMATS = ("FP8", "NVFP4")
_INSTRUCTIONS = dict.fromkeys(("sm_90a", "sm_100a"), ("cp.async", "mma.sync.aligned"))


def _product(name: str, stored: str, *, is_gated: bool) -> CompileCase:
    return CompileCase.of_launch(
        name=f"{name} in {stored}, {QUANTIZED_ROWS} rows",
        kernel=product_kernel,
        arguments={
            **of("*bf16", "x_ptr out_ptr"),
            **WEIGHTS[stored],
            **of("i32", "num_rows num_outputs num_columns num_scales"),
        },
        constants={"IS_GATED": is_gated},
        options=QUANTIZED.options(QUANTIZED_ROWS),
        aligned=_aligned(stored, "num_columns"),
        early=frozenset(WEIGHTS[stored]),
        instructions=_INSTRUCTIONS,
    )


def _experts(which: str, stored: str, rows: int) -> CompileCase:
    return CompileCase.of_launch(
        name=f"{which} product of experts in {stored}, {rows} rows",
        kernel=experts_kernel,
        arguments={
            **of("*bf16", "x_ptr out_ptr"),
            **WEIGHTS[stored],
            **TABLES,
            **of("i32", "num_outputs x_columns num_scales"),
        },
        constants={"A": 8, "IS_FIRST": which == "first"},
        options=QUANTIZED.options(rows),
        aligned=_aligned(stored, "x_columns"),
        instructions=_INSTRUCTIONS,
    )


def _aligned(stored: str, columns: str) -> frozenset[str]:
    return frozenset({"num_outputs", columns, *(["num_scales"] * (stored == "NVFP4"))})


COMPILE_CASES = (
    *(
        _product(name, stored, is_gated=is_gated)
        for name, is_gated in (("product", False), ("product with a SiLU gate", True))
        for stored in _FORMATS
    ),
    *(
        _experts(which, stored, rows)
        for stored in _FORMATS
        for which in ("first", "second")
        for rows in (16, MOST_QUANTIZED_ROWS)
    ),
)
