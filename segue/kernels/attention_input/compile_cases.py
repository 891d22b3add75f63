"""The sizes at which attention's input is compiled ahead of time."""

from segue.kernels.attention_input.triton import (
    NUM_WARPS,
    attention_input_kernel,
    sizes,
    store_keys_and_values_kernel,
)
from segue.kernels.compile_case import CHIPS, CompileCase, of

# Eight adjacent elements of a head, or four of the tables, in one instruction.
WIDE = dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32"))
HEAD_DIM, ROTARY_DIM = 256, 64

_POINTERS = {
    **of("*bf16", "packed_ptr pool_ptr"),
    **of("*fp32", "k_norm_ptr cos_ptr sin_ptr"),
    **of("*i64", "page_ptr offset_ptr"),
}
_NUMBERS = {"packed_stride": "i32", "page_tokens": "i32", "eps": "fp32"}

COMPILE_CASES = (
    *(
        CompileCase(
            name=f"attention input, {num_heads} and {num_kv_heads} heads of {HEAD_DIM}",
            kernel=attention_input_kernel,
            arguments={**_POINTERS, "q_norm_ptr": "*fp32", "q_ptr": "*bf16", **_NUMBERS},
            constants={
                "NUM_HEADS": num_heads,
                "NUM_KV_HEADS": num_kv_heads,
                **sizes(HEAD_DIM, ROTARY_DIM),
            },
            aligned=frozenset({"packed_stride", "page_tokens"}),
            num_warps=NUM_WARPS,
            instructions=WIDE,
        )
        for num_heads, num_kv_heads in ((8, 2), (16, 4))
    ),
    CompileCase(
        name=f"keys and values to pages, 4 heads of {HEAD_DIM}",
        kernel=store_keys_and_values_kernel,
        arguments={**_POINTERS, **_NUMBERS},
        constants={"NUM_KV_HEADS": 4, **sizes(HEAD_DIM, ROTARY_DIM)},
        aligned=frozenset({"packed_stride", "page_tokens"}),
        num_warps=NUM_WARPS,
        instructions=WIDE,
    ),
)
