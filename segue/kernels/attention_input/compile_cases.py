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
READS = dict.fromkeys(CHIPS, ("ld.global.v4.b32",))
HEAD_DIM, ROTARY_DIM = 256, 64
NUMBERS, CODES = ("*bf16", ""), ("*u8", ", FP8 pages")
"""What pages have, and how that is named."""

_POINTERS = {
    "packed_ptr": "*bf16",
    **of("*fp32", "k_norm_ptr cos_ptr sin_ptr"),
    **of("*i64", "page_ptr offset_ptr"),
}
_NUMBERS = {"packed_stride": "i32", "page_tokens": "i32", **of("fp32", "eps k_by v_by")}

COMPILE_CASES = (
    *(
        CompileCase(
            name=f"attention input, {num_heads} and {num_kv_heads} heads of {HEAD_DIM}{note}",
            kernel=attention_input_kernel,
            arguments={
                **_POINTERS,
                "pool_ptr": pages,
                "q_norm_ptr": "*fp32",
                "q_ptr": "*bf16",
                **_NUMBERS,
            },
            constants={
                "NUM_HEADS": num_heads,
                "NUM_KV_HEADS": num_kv_heads,
                **sizes(HEAD_DIM, ROTARY_DIM),
            },
            aligned=frozenset({"packed_stride", "page_tokens"}),
            num_warps=NUM_WARPS,
            instructions=WIDE,
        )
        for num_heads, num_kv_heads, pages, note in (
            (8, 2, *NUMBERS),
            (16, 4, *NUMBERS),
            (16, 4, *CODES),
        )
    ),
    *(
        CompileCase(
            name=f"keys and values to pages, 4 heads of {HEAD_DIM}{note}",
            kernel=store_keys_and_values_kernel,
            arguments={**_POINTERS, "pool_ptr": pages, **_NUMBERS},
            constants={"NUM_KV_HEADS": 4, **sizes(HEAD_DIM, ROTARY_DIM)},
            aligned=frozenset({"packed_stride", "page_tokens"}),
            num_warps=NUM_WARPS,
            instructions=WIDE if pages == NUMBERS[0] else READS,
        )
        for pages, note in (NUMBERS, CODES)
    ),
)
