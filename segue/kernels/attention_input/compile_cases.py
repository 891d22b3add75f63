"""The sizes at which attention's input is compiled ahead of time."""

from segue.kernels.attention_input.triton import (
    NUM_WARPS,
    attention_input_kernel,
    sizes,
)
from segue.kernels.compile_case import CHIPS, CompileCase, of

# Eight adjacent elements of a head, or four of the tables, in one instruction.
WIDE = dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32"))
READS = dict.fromkeys(CHIPS, ("ld.global.v4.b32",))
HEAD_DIM, ROTARY_DIM = 256, 64
_CODES = "*u8"

_POINTERS = {
    "packed_ptr": "*bf16",
    **of("*fp32", "k_norm_ptr cos_ptr sin_ptr"),
    **of("*i64", "page_ptr offset_ptr"),
}
_NUMBERS = {"packed_stride": "i32", "page_tokens": "i32", **of("fp32", "eps k_by v_by")}


def _case(name: str, num_heads: int, num_kv_heads: int, pages: str) -> CompileCase:
    return CompileCase(
        name=f"{name} heads of {HEAD_DIM}{', FP8 pages' if pages == _CODES else ''}",
        kernel=attention_input_kernel,
        arguments={
            **_POINTERS,
            "pool_ptr": pages,
            **({"q_norm_ptr": "*fp32", "q_ptr": "*bf16"} if num_heads else {}),
            **_NUMBERS,
        },
        constants={
            "NUM_HEADS": num_heads,
            "NUM_KV_HEADS": num_kv_heads,
            **sizes(HEAD_DIM, ROTARY_DIM),
        },
        aligned=frozenset({"packed_stride", "page_tokens"}),
        num_warps=NUM_WARPS,
        instructions=WIDE if num_heads or pages != _CODES else READS,
    )


COMPILE_CASES = (
    _case("attention input, 8 and 2", 8, 2, "*bf16"),
    _case("attention input, 16 and 4", 16, 4, "*bf16"),
    _case("attention input, 16 and 4", 16, 4, _CODES),
    _case("keys and values to pages, 4", 0, 4, "*bf16"),
    _case("keys and values to pages, 4", 0, 4, _CODES),
)
