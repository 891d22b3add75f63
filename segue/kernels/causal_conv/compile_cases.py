"""The sizes at which the causal convolution is compiled ahead of time: q, k and v of 9B."""

from segue.kernels.causal_conv import triton_decode
from segue.kernels.causal_conv.triton import (
    BLOCK_CHANNELS,
    BLOCK_TOKENS,
    causal_conv_prefill_kernel,
)
from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.draft_rounds import SIZE_NAMES

_TENSORS = {"x_ptr": "*bf16", "weight_ptr": "*fp32", "state_ptr": "*bf16", "out_ptr": "*bf16"}
_SIZES = {"num_channels": "i32", "x_stride": "i32"}

COMPILE_CASES = (
    CompileCase(
        name="causal convolution, prefill",
        kernel=causal_conv_prefill_kernel,
        arguments={
            **_TENSORS,
            **of("*i64", "cu_tokens_ptr slots_out_ptr cu_segments_ptr slots_in_ptr"),
            **of("i32", "num_sequences"),
            **_SIZES,
        },
        constants={"WIDTH": 4, "BLOCK_T": BLOCK_TOKENS, "BLOCK_C": BLOCK_CHANNELS},
        aligned=frozenset(_SIZES),
        instructions=dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32")),
    ),
    *(
        CompileCase(
            name=f"causal convolution, decode, J = {num_rounds}",
            kernel=triton_decode.causal_conv_decode_kernel,
            arguments={
                **_TENSORS,
                **of("*i64", "slots_in_ptr slots_out_ptr"),
                **dict.fromkeys(SIZE_NAMES, "i32"),
                **_SIZES,
            },
            constants={
                "NUM_ROUNDS": num_rounds,
                "WIDTH": 4,
                "BLOCK_C": triton_decode.BLOCK_CHANNELS,
            },
            aligned=frozenset(_SIZES),
            num_warps=1,
        )
        for num_rounds in (1, 4)
    ),
)
