"""The sizes at which the product of few rows is compiled ahead of time: wide tiles for gate and up
and for the head, narrow ones for what adds to the residual stream."""

from __future__ import annotations

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.product.tiling import NARROW, WIDE, Tile
from segue.kernels.product.triton import product_kernel

WEIGHTS = {
    "bfloat16": {"numbers_ptr": "*bf16"},
    "FP8": {"numbers_ptr": "*u8", "scales_ptr": "*fp32"},
    "NVFP4": {"numbers_ptr": "*u8", "scales_ptr": "*u8", "row_scales_ptr": "*fp32"},
}
"""A kernel's pointers to a weight, by its format."""


def _case(
    name: str, rows: int, tile: Tile, *, out: str = "*bf16", is_gated: bool = False
) -> CompileCase:
    return CompileCase.of_launch(
        name=f"{name}, {rows} rows",
        kernel=product_kernel,
        arguments={
            **of("*bf16", "x_ptr numbers_ptr"),
            "out_ptr": out,
            **of("i32", "num_rows num_outputs num_columns num_scales"),
        },
        constants={"IS_GATED": is_gated},
        options=tile.options(rows),
        aligned=frozenset({"num_outputs", "num_columns", "num_scales"}),
        early=frozenset({"numbers_ptr"}),
        # One instruction for both numbers of rows: it sums a row alike.
        instructions=dict.fromkeys(
            ("sm_90a", "sm_100a"),
            ("cp.async.cg.shared.global", ", 0x10,", "mma.sync.aligned.m16n8k16"),
        ),
    )


COMPILE_CASES = tuple(
    case
    for rows in (16, 32)
    for case in (
        _case("product", rows, NARROW),
        _case("product with a SiLU gate", rows, WIDE, is_gated=True),
        _case("product in float32", rows, WIDE, out="*fp32"),
    )
)
