"""The sizes at which the gated delta rule is compiled ahead of time: heads of 9B and 35B-A3B, and
of 0.8B, which has so few that a scan takes narrow blocks."""

from collections.abc import Mapping

from segue.kernels.compile_case import CHIPS, TENSOR_CORES, CompileCase, of
from segue.kernels.draft_rounds import SIZE_NAMES
from segue.kernels.gated_delta_rule.reference import CHUNK_TOKENS
from segue.kernels.gated_delta_rule.triton_decode import BLOCK_V, decode_kernel
from segue.kernels.gated_delta_rule.triton_parts import BLOCKS_V, combine_kernel, part_kernel
from segue.kernels.gated_delta_rule.triton_prefill import prepare_kernel
from segue.kernels.gated_delta_rule.triton_scan import scan_kernel, scan_warps

_HEADS = {"NUM_HEADS": 32, "REPEATS": 2, "K": 128}
_FEW_HEADS = {"NUM_HEADS": 16, "REPEATS": 1, "K": 128}
_INDICES = of("*i64", "cu_tokens_ptr slots_out_ptr cu_segments_ptr slots_in_ptr")
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

_FEWEST_HEADS = {"NUM_HEADS": 8, "REPEATS": 4, "K": 128}
"""Of a rank of eight that share 397B."""


def _scan(block_v: int, heads: Mapping[str, int], *, in_parts: bool = False) -> CompileCase:
    return CompileCase(
        name=f"gated delta rule, prefill: scan, {block_v} of V"
        + (", in parts" if in_parts else ""),
        kernel=scan_kernel,
        arguments={
            **of("*bf16", "q_ptr k_ptr v_ptr solved_ptr attention_ptr"),
            **of("*fp32", "scales_ptr state_ptr out_ptr" + (" starts_ptr" if in_parts else "")),
            **_INDICES,
            **of("i32", "num_parts q_stride k_stride v_stride"),
        },
        constants={
            **heads,
            "V": 128,
            "C": CHUNK_TOKENS,
            "BLOCK_V": block_v,
        },
        aligned=frozenset(_STRIDES),
        num_warps=scan_warps(block_v),
        instructions=_ASYNC_COPIES,
    )


_PART = CompileCase(
    name="gated delta rule, prefill: part",
    kernel=part_kernel,
    arguments={
        **of("*bf16", "k_ptr v_ptr solved_ptr"),
        **of("*fp32", "scales_ptr state_ptr starts_ptr transitions_ptr"),
        **of("*i64", "cu_tokens_ptr cu_segments_ptr slots_in_ptr"),
        **of("i32", "num_parts k_stride v_stride"),
    },
    constants={**_FEWEST_HEADS, "V": 128, "C": CHUNK_TOKENS, "BLOCK_V": BLOCKS_V[0]},
    aligned=frozenset(_STRIDES),
    num_warps=scan_warps(BLOCKS_V[0]),
    instructions=_ASYNC_COPIES,
)
_COMBINE = CompileCase(
    name="gated delta rule, prefill: combine",
    kernel=combine_kernel,
    arguments={**of("*fp32", "starts_ptr transitions_ptr"), **of("i32", "num_parts")},
    constants={
        "NUM_HEADS": 8,
        "K": 128,
        "V": 128,
        "BLOCK_V": BLOCKS_V[0],
        "PRECISION": "tf32",
    },
    num_warps=8,
    num_stages=2,
    instructions=TENSOR_CORES,
)

COMPILE_CASES = (
    _PREPARE,
    _scan(BLOCKS_V[0], _HEADS),
    _scan(BLOCKS_V[1], _FEW_HEADS),
    _scan(BLOCKS_V[0], _FEWEST_HEADS, in_parts=True),
    _PART,
    _COMBINE,
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
