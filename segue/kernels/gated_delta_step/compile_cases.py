"""The sizes at which a Gated Delta Net's decode step is compiled ahead of time: those of 9B and
35B-A3B."""

from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.draft_rounds import SIZE_NAMES
from segue.kernels.gated_delta_rule.triton_decode import BLOCK_V
from segue.kernels.gated_delta_step.triton import BLOCK_CHANNELS
from segue.kernels.gated_delta_step.triton_kernels import finish_kernel, step_kernel
from segue.kernels.rms_norm.triton_gated import NUM_WARPS, blocks

_SLOTS = of("*i64", "slots_in_ptr slots_out_ptr")
_SIZES = dict.fromkeys(SIZE_NAMES, "i32")
_WIDE = dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32"))
_ROUNDS = (1, 4, 8)

COMPILE_CASES = (
    *(
        CompileCase(
            name=f"gated delta step, J = {num_rounds}",
            kernel=step_kernel,
            arguments={
                **of("*bf16", "x_ptr rate_ptr dt_ptr conv_ptr"),
                **of("*fp32", "weight_ptr minus_a_ptr dt_bias_ptr state_ptr out_ptr"),
                **_SLOTS,
                **_SIZES,
                **of("i32", "x_stride rate_stride dt_stride"),
            },
            constants={
                "NUM_ROUNDS": num_rounds,
                "NUM_HEADS": 32,
                "REPEATS": 2,
                "K": 128,
                "V": 128,
                "WIDTH": 4,
                "BLOCK_V": BLOCK_V,
            },
            aligned=frozenset({"x_stride", "rate_stride", "dt_stride"}),
            num_warps=1,
            instructions=_WIDE,
            # The inputs of all tokens are read beside the state, before the first state is written.
            # What is spilled is read once for a token, in which a thread writes 256 bytes of state.
            max_stack_bytes=72 if num_rounds > 1 else 0,
        )
        for num_rounds in _ROUNDS
    ),
    *(
        CompileCase(
            name=f"gated delta step, norm and kept inputs, J = {num_rounds}",
            kernel=finish_kernel,
            arguments={
                **of("*fp32", "out_ptr norm_ptr"),
                **of("*bf16", "gate_ptr normed_ptr x_ptr conv_ptr"),
                **_SLOTS,
                **_SIZES,
                **of("i32", "num_rows num_heads gate_stride num_channels x_stride"),
                **of("fp32", "eps"),
            },
            constants={
                "NUM_ROUNDS": num_rounds,
                "V": 128,
                "WIDTH": 4,
                "BLOCK_Z": blocks(128)[0],
                "BLOCK_C": BLOCK_CHANNELS,
            },
            aligned=frozenset({"num_heads", "gate_stride", "num_channels", "x_stride"}),
            num_warps=NUM_WARPS,
            instructions=_WIDE,
        )
        for num_rounds in _ROUNDS
    ),
)
