"""The sizes at which RMS norm is compiled ahead of time. Norm weights are in float32."""

from typing import Any

import triton

from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.rms_norm.triton import (
    add_rms_norm_kernel,
    join_rms_norms_kernel,
    num_warps,
    rms_norm_kernel,
)
from segue.kernels.rms_norm.triton_gated import NUM_WARPS, blocks, gated_rms_norm_kernel

# A thread moves eight adjacent elements with one load and one store.
WIDE = dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32"))
_ROWS, _GATED_WIDTH = blocks(128)


def _norm(name: str, kernel: Any, tensors: str, weights: str, width: int) -> CompileCase:
    block = triton.next_power_of_2(width)
    return CompileCase(
        name=f"{name}, {width} wide",
        kernel=kernel,
        arguments={
            **of("*bf16", tensors),
            **of("*fp32", weights),
            **of("i32", "width"),
            **of("fp32", "eps"),
        },
        constants={"BLOCK_H": block},
        aligned=frozenset({"width"}),
        early=frozenset(weights.split()),
        num_warps=num_warps(block),
        instructions=WIDE,
    )


COMPILE_CASES = (
    *(
        _norm("RMS norm", rms_norm_kernel, "x_ptr out_ptr", "weight_ptr", width)
        for width in (1024, 5120)
    ),
    *(
        _norm(
            "add and RMS norm",
            add_rms_norm_kernel,
            "x_ptr y_ptr sum_ptr out_ptr",
            "weight_ptr",
            width,
        )
        for width in (1024, 4096)
    ),
    _norm(
        "two RMS norms joined",
        join_rms_norms_kernel,
        "x_ptr y_ptr out_ptr",
        "x_weight_ptr y_weight_ptr",
        4096,
    ),
    CompileCase(
        name="gated RMS norm, heads of 128",
        kernel=gated_rms_norm_kernel,
        arguments={
            **of("*fp32", "x_ptr weight_ptr"),
            **of("*bf16", "gate_ptr out_ptr"),
            **of("i32", "num_rows num_heads gate_stride width"),
            **of("fp32", "eps"),
        },
        constants={"BLOCK_Z": _ROWS, "BLOCK_H": _GATED_WIDTH},
        aligned=frozenset({"num_heads", "gate_stride", "width"}),
        num_warps=NUM_WARPS,
        instructions=WIDE,
    ),
)
