"""The sizes at which gates are compiled ahead of time."""

from segue.kernels.gates.triton import (
    BLOCK,
    DECAY_BLOCK,
    NUM_WARPS,
    decay_and_rate_kernel,
    sigmoid_gate_kernel,
    silu_gate_kernel,
)
from segue.kernels.specimen import CHIPS, CompileCase

# A thread moves eight adjacent elements with one load and one store.
WIDE = dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32"))

SPECIMENS = (
    CompileCase(
        name="SiLU gate of an MLP",
        kernel=silu_gate_kernel,
        arguments={
            "gate_up_ptr": "*bf16",
            "out_ptr": "*bf16",
            "row_stride": "i32",
            "width": "i32",
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
            "x_ptr": "*bf16",
            "gate_ptr": "*bf16",
            "out_ptr": "*bf16",
            "token_stride": "i32",
            "head_stride": "i32",
            "width": "i32",
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
            "dt_ptr": "*bf16",
            "rate_ptr": "*bf16",
            "minus_a_ptr": "*fp32",
            "dt_bias_ptr": "*fp32",
            "log_decay_ptr": "*fp32",
            "out_rate_ptr": "*fp32",
            "dt_stride": "i32",
            "rate_stride": "i32",
            "num_elements": "i32",
        },
        constants={"NUM_HEADS": 32, "BLOCK_Z": DECAY_BLOCK},
        aligned=frozenset({"dt_stride", "rate_stride"}),
        num_warps=NUM_WARPS,
    ),
)
