"""The sizes at which RMS norm is compiled ahead of time. Norm weights are kept in float32."""

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

COMPILE_CASES = (
    *(
        CompileCase(
            name=f"RMS norm, {width} wide",
            kernel=rms_norm_kernel,
            arguments={
                **of("*bf16", "x_ptr out_ptr"),
                **of("*fp32", "weight_ptr"),
                **of("i32", "width"),
                **of("fp32", "eps"),
            },
            constants={"BLOCK_H": block},
            aligned=frozenset({"width"}),
            early=frozenset({"weight_ptr"}),
            num_warps=num_warps(block),
            instructions=WIDE,
        )
        for width, block in ((1024, 1024), (5120, 8192))
    ),
    *(
        CompileCase(
            name=f"add and RMS norm, {width} wide",
            kernel=add_rms_norm_kernel,
            arguments={
                **of("*bf16", "x_ptr y_ptr sum_ptr out_ptr"),
                **of("*fp32", "weight_ptr"),
                **of("i32", "width"),
                **of("fp32", "eps"),
            },
            constants={"BLOCK_H": width},
            aligned=frozenset({"width"}),
            early=frozenset({"weight_ptr"}),
            num_warps=num_warps(width),
            instructions=WIDE,
        )
        for width in (1024, 4096)
    ),
    CompileCase(
        name="two RMS norms joined, 4096 wide",
        kernel=join_rms_norms_kernel,
        arguments={
            **of("*bf16", "x_ptr y_ptr out_ptr"),
            **of("*fp32", "x_weight_ptr y_weight_ptr"),
            **of("i32", "width"),
            **of("fp32", "eps"),
        },
        constants={"BLOCK_H": 4096},
        aligned=frozenset({"width"}),
        early=frozenset({"x_weight_ptr", "y_weight_ptr"}),
        num_warps=num_warps(4096),
        instructions=WIDE,
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
