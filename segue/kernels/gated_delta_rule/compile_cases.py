"""The sizes at which the gated delta rule is compiled ahead of time: heads of 9B and 35B-A3B, and
of 0.8B, which has so few that a scan takes narrow blocks."""

from segue.kernels.compile_case import CHIPS, TENSOR_CORES, CompileCase, of
from segue.kernels.draft_rounds import SIZE_NAMES
from segue.kernels.gated_delta_rule.reference import CHUNK_TOKENS
from segue.kernels.gated_delta_rule.triton_decode import BLOCK_V, decode_kernel
from segue.kernels.gated_delta_rule.triton_prefill import (
    BLOCKS_V,
    prepare_kernel,
    scan_kernel,
    scan_warps,
)

_HEADS = {"NUM_HEADS": 32, "REPEATS": 2, "K": 128}
_FEW_HEADS = {"NUM_HEADS": 16, "REPEATS": 1, "K": 128}
_INDICES = {
    **of("*i64", "cu_tokens_ptr slots_out_ptr cu_segments_ptr slots_in_ptr"),
}
_STRIDES = ("q_stride", "k_stride", "v_stride", "log_decay_stride", "rate_stride")
_ASYNC_COPIES = {chip: (*what, "cp.async.cg.shared.global") for chip, what in TENSOR_CORES.items()}

_PREPARE = CompileCase(
    name="gated delta rule, prefill: prepare",
    kernel=prepare_kernel,
    arguments={
        **of("*bf16", "q_ptr k_ptr solved_ptr attention_ptr"),
        **of("*fp32", "log_decay_ptr rate_ptr scales_ptr"),
        **of("*i64", "cu_tokens_ptr"),
        **of("i32", "num_segments q_stride k_stride log_decay_stride rate_stride"),
    },
    constants={**_HEADS, "C": CHUNK_TOKENS, "PRECISION": "tf32"},
    aligned=frozenset(_STRIDES),
    instructions=TENSOR_CORES,
)

COMPILE_CASES = (
    _PREPARE,
    *(
        CompileCase(
            name=f"gated delta rule, prefill: scan, {block_v} of V",
            kernel=scan_kernel,
            arguments={
                **of("*bf16", "q_ptr k_ptr v_ptr solved_ptr attention_ptr"),
                **of("*fp32", "scales_ptr state_ptr out_ptr"),
                **_INDICES,
                **of("i32", "q_stride k_stride v_stride"),
            },
            constants={
                **(_HEADS if block_v == BLOCKS_V[0] else _FEW_HEADS),
                "V": 128,
                "C": CHUNK_TOKENS,
                "BLOCK_V": block_v,
            },
            aligned=frozenset(_STRIDES),
            num_warps=scan_warps(block_v),
            instructions=_ASYNC_COPIES,
        )
        for block_v in BLOCKS_V
    ),
    *(
        CompileCase(
            name=f"gated delta rule, decode, J = {num_rounds}",
            kernel=decode_kernel,
            arguments={
                **of("*bf16", "q_ptr k_ptr v_ptr"),
                **of("*fp32", "log_decay_ptr rate_ptr state_ptr out_ptr"),
                **of("*i64", "slots_in_ptr slots_out_ptr"),
                **dict.fromkeys((*SIZE_NAMES, *_STRIDES), "i32"),
            },
            constants={**_HEADS, "NUM_ROUNDS": num_rounds, "V": 128, "BLOCK_V": BLOCK_V},
            aligned=frozenset(_STRIDES),
            num_warps=1,
            instructions=dict.fromkeys(CHIPS, ("ld.global.v4.b32", "st.global.v4.b32")),
        )
        for num_rounds in (1, 8)
    ),
)
