"""The sizes at which products with quantised weights are compiled ahead of time: Qwen3.5-27B's MLP
in FP8 and NVFP4, Qwen3.5-397B-A17B's experts in NVFP4 and Qwen3.5-35B-A3B's in FP8."""

from __future__ import annotations

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.moe.compile_cases import TABLES
from segue.kernels.quantized_product.reference import FP8_COLUMNS
from segue.kernels.quantized_product.triton import (
    COLUMNS,
    NUM_STAGES,
    NUM_WARPS,
    ROWS,
    product_kernel,
)
from segue.kernels.quantized_product.triton_experts import MOST_TILE_ROWS, experts_kernel

_POINTERS = {
    "FP8": {"scales_ptr": "*fp32"},
    "NVFP4": {"scales_ptr": "*u8", "row_scales_ptr": "*fp32"},
}


def _case(
    name: str,
    stored: str,
    kernel: object,
    rows: int,
    pointers: dict[str, str],
    constants: dict[str, object],
) -> CompileCase:
    integers = "num_outputs num_columns num_scales"
    is_dependent = kernel is product_kernel
    return CompileCase(
        name=f"{name} in {stored}, {rows} rows",
        kernel=kernel,
        arguments={
            **of("*bf16", "x_ptr out_ptr"),
            "codes_ptr": "*u8",
            **_POINTERS[stored],
            **pointers,
            **({"num_rows": "i32"} if is_dependent else {}),
            **of("i32", integers),
        },
        constants={
            **({"row_scales_ptr": None} if stored == "FP8" else {}),
            **constants,
            "BLOCK_M": rows,
            "BLOCK_N": COLUMNS,
            "BLOCK_K": FP8_COLUMNS,
        },
        aligned=frozenset({"num_outputs", "num_columns", *(["num_scales"] * (stored != "FP8"))}),
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        early=frozenset({"codes_ptr", *_POINTERS[stored]} if is_dependent else ()),
        instructions=dict.fromkeys(("sm_90a", "sm_100a"), ("cp.async", "mma.sync.aligned")),
    )


COMPILE_CASES = (
    *(
        _case(name, stored, product_kernel, ROWS, {}, {"IS_GATED": is_gated})
        for name, is_gated in (("product", False), ("product with a SiLU gate", True))
        for stored in _POINTERS
    ),
    *(
        _case(
            f"{which} product of experts",
            stored,
            experts_kernel,
            rows,
            TABLES,
            {"A": 8, "IS_FIRST": which == "first"},
        )
        for stored in _POINTERS
        for which in ("first", "second")
        for rows in (16, MOST_TILE_ROWS)
    ),
)
