"""The sizes at which products with quantised inputs are compiled ahead of time: MLPs of Qwen3.5-27B
in FP8 and NVFP4, experts of 35B-A3B in FP8 and of 397B-A17B in NVFP4."""

from __future__ import annotations

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.moe.compile_cases import TABLES
from segue.kernels.moe.triton_experts import experts_kernel
from segue.kernels.quantized_product.reference import NVFP4_COLUMNS, Format
from segue.kernels.scaled_product.triton import GROUP_ROWS, TILES, scaled_product_kernel
from segue.kernels.scaled_product.triton import ROWS as PRODUCT_ROWS
from segue.kernels.scaled_product.triton_codes import (
    COLUMNS,
    NUM_WARPS,
    ROWS,
    fp8_codes_kernel,
    nvfp4_codes_kernel,
)

_POINTERS = {
    Format.FP8: {
        **of("*fp8e4nv", "x_ptr numbers_ptr"),
        **of("*fp32", "x_scales_ptr scales_ptr"),
    },
    Format.NVFP4: {
        **of("*u8", "x_ptr numbers_ptr"),
        **of("*fp8e4nv", "x_scales_ptr scales_ptr"),
        **of("*fp32", "input_scale_ptr row_scales_ptr"),
    },
}
_INSTRUCTIONS = {
    Format.FP8: {
        "sm_90a": ("cp.async.cg.shared.global", "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3"),
        "sm_100a": ("cp.async.cg.shared.global", "tcgen05.mma.cta_group::1.kind::f8f6f4"),
    },
    # Hopper does not multiply its codes: `segue.kernels.scaled_product.ways`.
    Format.NVFP4: {
        "sm_100a": ("cp.async.cg.shared.global", "tcgen05.mma.cta_group::1.kind::mxf4nvf4"),
    },
}


def _product(
    name: str, how: Format, kernel: object, arguments: dict[str, str], constants: dict[str, object]
) -> CompileCase:
    return CompileCase.of_launch(
        name=f"{name} in {how.name} with quantised inputs",
        kernel=kernel,
        arguments={
            **_POINTERS[how],
            "out_ptr": "*bf16",
            **arguments,
            **of("i32", "num_outputs x_columns num_scales"),
        },
        constants=constants,
        options=TILES[how].options(PRODUCT_ROWS),
        aligned=frozenset({"num_outputs", "x_columns", *["num_scales"] * (how is Format.NVFP4)}),
        instructions=_INSTRUCTIONS[how],
        chips=tuple(_INSTRUCTIONS[how]),
    )


def _codes(name: str, kernel: object, input_scale: str | None, **constants: object) -> CompileCase:
    is_fp8 = kernel is fp8_codes_kernel
    return CompileCase(
        name=f"quantised inputs, {name}",
        kernel=kernel,
        arguments={
            "x_ptr": "*bf16",
            **({"input_scale_ptr": input_scale} if input_scale else {}),
            "codes_ptr": "*u8",
            "scales_ptr": "*fp32" if is_fp8 else "*u8",
            **of("i32", "num_rows num_columns"),
            **(of("i32", "num_scales") if is_fp8 else {}),
        },
        constants={
            **constants,
            "BLOCK_M": ROWS,
            "BLOCK_K": COLUMNS,
        },
        aligned=frozenset({"num_columns"}),
        num_warps=NUM_WARPS,
        instructions=dict.fromkeys(("sm_90a", "sm_100a"), ("ld.global.v4",)),
        # NVFP4's spills two registers, and has no loop.
        max_stack_bytes=0 if is_fp8 else 8,
    )


COMPILE_CASES = (
    _codes("FP8", fp8_codes_kernel, None),
    _codes("FP8 with one scale", fp8_codes_kernel, "*fp32"),
    _codes("NVFP4", nvfp4_codes_kernel, "*fp32", GROUP=NVFP4_COLUMNS),
    *(
        _product(
            name,
            how,
            scaled_product_kernel,
            {"num_rows": "i32"},
            {"IS_GATED": is_gated, "GROUP_ROWS": GROUP_ROWS},
        )
        for how in _POINTERS
        for name, is_gated in (("product", False), ("product with a SiLU gate", True))
    ),
    *(
        _product(
            f"{which} product of experts",
            how,
            experts_kernel,
            TABLES,
            {"A": 8, "IS_FIRST": which == "first"},
        )
        for how in _POINTERS
        for which in ("first", "second")
    ),
)
