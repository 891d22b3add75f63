"""The sizes at which paged attention is compiled ahead of time: head dimension 256, with 4 query
heads per key head, as in the dense models, and 8, as in the 35B model."""

from __future__ import annotations

from segue.kernels.compile_case import CHIPS, TENSOR_CORES, CompileCase, of
from segue.kernels.draft_rounds import SIZE_NAMES
from segue.kernels.paged_attention import triton_decode, triton_prefill

HEAD_DIM = 256
ASYNCHRONOUS = ("cp.async.cg.shared.global",)
"""Copies of 16 bytes per thread that bypass the registers."""

_INDICES = {"table_ptr": "*i64", "table_stride": "i32", **of("fp32", "scale v_scale")}
_PIECES = {"partial_ptr": "*fp32", "stats_ptr": "*fp32"}
_SIZES = dict.fromkeys(SIZE_NAMES, "i32")


_DENSE = {"GROUP": 4, "NUM_KV_HEADS": 4, "PAGE_TOKENS": 64}
_SPARSE = {"GROUP": 8, "NUM_KV_HEADS": 2, "PAGE_TOKENS": 16}
_CODES = "*u8"


def _prefill(
    name: str, shape: dict[str, int], *, whole: bool = False, pages: str = "*bf16"
) -> CompileCase:
    return CompileCase(
        name=f"attention, prefill, {name}",
        kernel=triton_prefill.attend_prefill_kernel,
        arguments={
            **of("*bf16", "q_ptr out_ptr"),
            "pages_ptr": pages,
            **of("*i64", "cu_tokens_ptr starts_ptr"),
            **of("i32", "num_sequences num_tokens"),
            **_INDICES,
            **({} if whole else _PIECES),
        },
        constants={
            **shape,
            "HEAD_DIM": HEAD_DIM,
            "BLOCK_M": triton_prefill.BLOCK_M,
            "BLOCK_N": triton_prefill.BLOCK_N,
            "BLOCK_I": triton_prefill.BLOCK_I,
        },
        num_warps=triton_prefill.NUM_WARPS,
        num_stages=triton_prefill.NUM_STAGES,
        instructions={chip: (*TENSOR_CORES[chip], *ASYNCHRONOUS) for chip in CHIPS},
        # The output's address, computed before the loops and read again after them: the accumulator
        # leaves no room for it. Nothing inside a loop is spilled.
        max_stack_bytes=128,
    )


def _decode(
    name: str, shape: dict[str, int], *, pages: str = "*bf16", max_stack_bytes: int = 0
) -> CompileCase:
    return CompileCase(
        name=f"attention, decode, {name}",
        kernel=triton_decode.attend_decode_kernel,
        arguments={
            "q_ptr": "*bf16",
            "pages_ptr": pages,
            **_PIECES,
            **of("*i32", "pieces_ptr"),
            **of("*i64", "lengths_ptr"),
            **of("i32", "num_sequences num_rows first_position"),
            **_INDICES,
            **_SIZES,
        },
        constants={
            **shape,
            "HEAD_DIM": HEAD_DIM,
            "BLOCK_M": triton_decode.tile_rows(shape["GROUP"]),
            "BLOCK_N": triton_decode.BLOCK_N,
            "BLOCK_D": triton_decode.BLOCK_D,
            "PIECE_TILES": triton_decode.PIECE_TILES,
        },
        num_warps=triton_decode.NUM_WARPS,
        num_stages=triton_decode.NUM_STAGES,
        instructions=dict.fromkeys(CHIPS, ("mma.sync.aligned.m16n8k16", *ASYNCHRONOUS)),
        max_stack_bytes=max_stack_bytes,
    )


COMPILE_CASES = (
    _prefill("pages of 64", _DENSE, whole=True),
    _prefill("pages of 16, in pieces", _SPARSE),
    _prefill("FP8 pages of 16, in pieces", _SPARSE, pages=_CODES),
    _decode("16 rows, pages of 64", _DENSE),
    _decode("32 rows, pages of 16", _SPARSE),
    # With codes, what a piece needs once is stored before the loop over its keys and read again
    # after it. Nothing inside that loop is spilled.
    _decode("16 rows, FP8 pages of 64", _DENSE, pages=_CODES, max_stack_bytes=24),
    _decode("32 rows, FP8 pages of 16", _SPARSE, pages=_CODES, max_stack_bytes=64),
    CompileCase(
        name="attention, decode, combined",
        kernel=triton_decode.combine_decode_kernel,
        arguments={
            **_PIECES,
            **of("*i32", "pieces_ptr"),
            **of("*bf16", "out_ptr"),
            **of("*i64", "lengths_ptr"),
            **of("i32", "num_rows"),
            **_SIZES,
        },
        constants={"GROUP": 4, "HEAD_DIM": HEAD_DIM, "BLOCK_S": 32, "BLOCK_X": 128},
    ),
    CompileCase(
        name="attention, prefill, combined",
        kernel=triton_prefill.combine_prefill_kernel,
        arguments={**_PIECES, "out_ptr": "*bf16", "num_pieces": "i32"},
        constants={"HEAD_DIM": HEAD_DIM, "BLOCK_S": triton_prefill.MAX_PIECES},
        num_warps=1,
    ),
)
