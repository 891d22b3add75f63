"""The sizes at which gates are compiled ahead of time."""

from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.gates.triton import (
    BLOCK,
    DECAY_BLOCK,
    NUM_WARPS,
    decay_and_rate_kernel,
    sigmoid_gate_kernel,
    silu_gate_kernel,
)

# A thread moves eight adjacent elements with one load and one store.
WIDE = dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32"))

COMPILE_CASES = (
    CompileCase(
        name="SiLU gate of an MLP",
        kernel=silu_gate_kernel,
        arguments={
            **of("*bf16", "gate_up_ptr out_ptr"),
            **of("i32", "row_stride width"),
        },
        constants={"BLOCK_I": BLOCK},
        aligned=frozenset({"row_stride", "width"}),
        num_warps=NUM_WARPS,
        instructions=WIDE,
    ),
    CompileCase(
        name="sigmoid gate, heads of 256",
        kernel=sigmoid_gate_kernel,
        arguments={
            **of("*bf16", "x_ptr gate_ptr out_ptr"),
            **of("i32", "token_stride head_stride width"),
        },
        constants={"HEAD_DIM": 256, "BLOCK_I": BLOCK},
        aligned=frozenset({"token_stride", "head_stride", "width"}),
        num_warps=NUM_WARPS,
        instructions=WIDE,
    ),
    CompileCase(
        name="decay and rate, 32 heads",
        kernel=decay_and_rate_kernel,
        arguments={
            **of("*bf16", "dt_ptr rate_ptr"),
            **of("*fp32", "minus_a_ptr dt_bias_ptr log_decay_ptr out_rate_ptr"),
            **of("i32", "dt_stride rate_stride num_elements"),
        },
        constants={"NUM_HEADS": 32, "BLOCK_Z": DECAY_BLOCK},
        aligned=frozenset({"dt_stride", "rate_stride"}),
        num_warps=NUM_WARPS,
    ),
)
