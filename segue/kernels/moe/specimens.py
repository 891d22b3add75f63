"""The sizes of Qwen3.5-35B-A3B at which its kernels are compiled ahead of time."""

from __future__ import annotations

from segue.kernels.moe.tiling import DENSE, MIDDLE, STREAMING, Tile, Tiling
from segue.kernels.moe.triton import BLOCK_H, combine_kernel, down_kernel, gate_up_kernel
from segue.kernels.moe.triton_routing import (
    BLOCK_B,
    BLOCK_T,
    choose_kernel,
    num_warps,
    place_kernel,
    plan_kernel,
    route_few_kernel,
)
from segue.kernels.specimen import TENSOR_CORES, CompileCase

BLOCK_A, BLOCK_E = 8, 256
TABLES = {
    "pairs_ptr": "*i32",
    "tile_expert_ptr": "*i32",
    "tile_first_ptr": "*i32",
    "tile_stop_ptr": "*i32",
    "num_tiles_ptr": "*i32",
}
COPIES = ("cp.async.cg.shared.global", ", 0x10,")
"""Asynchronous, 16 bytes at a time."""
SMALL_TILES = dict.fromkeys(TENSOR_CORES, (*COPIES, "mma.sync.aligned.m16n8k16"))
LARGE_TILES = {chip: (*COPIES, *products) for chip, products in TENSOR_CORES.items()}


def _product(name: str, tiling: Tiling, tile: Tile, kernel: object) -> CompileCase:
    is_first = kernel is gate_up_kernel
    pointers = ("x_ptr", "gate_up_ptr", "h_ptr") if is_first else ("h_ptr", "down_ptr", "y_ptr")
    return CompileCase(
        name=f"MoE {name}, {tiling.rows} rows",
        kernel=kernel,
        arguments={
            **dict.fromkeys(pointers, "*bf16"),
            **TABLES,
            "hidden_size": "i32",
            "width": "i32",
        },
        constants={
            **({"A": 8} if is_first else {}),
            "BLOCK_M": tiling.rows,
            "BLOCK_N": tile.columns,
            "BLOCK_K": tile.depth,
        },
        aligned=frozenset({"hidden_size", "width"}),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        instructions=SMALL_TILES if tiling is STREAMING else LARGE_TILES,
    )


SPECIMENS = (
    CompileCase(
        name="MoE routing, 32 tokens",
        kernel=route_few_kernel,
        arguments={
            "logits_ptr": "*bf16",
            "weights_ptr": "*fp32",
            **TABLES,
            "num_tokens": "i32",
            "num_experts": "i32",
        },
        constants={
            "A": 8,
            "BLOCK_A": BLOCK_A,
            "BLOCK_T": BLOCK_T,
            "BLOCK_E": BLOCK_E,
            "BLOCK_M": STREAMING.rows,
        },
        aligned=frozenset({"num_experts"}),
        num_warps=num_warps(BLOCK_T * BLOCK_E),
    ),
    CompileCase(
        name="MoE routing of many tokens, choice",
        kernel=choose_kernel,
        arguments={
            "logits_ptr": "*bf16",
            "weights_ptr": "*fp32",
            "ranks_ptr": "*i8",
            "counts_ptr": "*i32",
            "num_tokens": "i32",
            "num_experts": "i32",
        },
        constants={"A": 8, "BLOCK_A": BLOCK_A, "BLOCK_T": BLOCK_T, "BLOCK_E": BLOCK_E},
        aligned=frozenset({"num_experts"}),
        num_warps=num_warps(BLOCK_T * BLOCK_E),
    ),
    CompileCase(
        name="MoE routing of many tokens, plan",
        kernel=plan_kernel,
        arguments={
            "counts_ptr": "*i32",
            "before_ptr": "*i32",
            "first_ptr": "*i32",
            **{name: kind for name, kind in TABLES.items() if name != "pairs_ptr"},
            "num_blocks": "i32",
            "num_experts": "i32",
        },
        constants={"BLOCK_B": BLOCK_B, "BLOCK_E": BLOCK_E, "BLOCK_M": DENSE.rows},
        aligned=frozenset({"num_experts"}),
        num_warps=num_warps(BLOCK_B * BLOCK_E),
    ),
    CompileCase(
        name="MoE routing of many tokens, places",
        kernel=place_kernel,
        arguments={
            "ranks_ptr": "*i8",
            "before_ptr": "*i32",
            "first_ptr": "*i32",
            "pairs_ptr": "*i32",
            "num_tokens": "i32",
            "num_experts": "i32",
        },
        constants={"A": 8, "BLOCK_T": BLOCK_T, "BLOCK_E": BLOCK_E},
        aligned=frozenset({"num_experts"}),
        num_warps=num_warps(BLOCK_T * BLOCK_E),
    ),
    CompileCase(
        name="MoE sum",
        kernel=combine_kernel,
        arguments={
            "y_ptr": "*bf16",
            "weights_ptr": "*fp32",
            "shared_ptr": "*bf16",
            "shared_gate_ptr": "*bf16",
            "out_ptr": "*bf16",
            "hidden_size": "i32",
        },
        constants={"A": 8, "BLOCK_H": BLOCK_H},
        aligned=frozenset({"hidden_size"}),
        num_warps=2,
    ),
    *(
        _product(name, tiling, tile, kernel)
        for tiling in (STREAMING, MIDDLE, DENSE)
        for name, tile, kernel in (
            ("gate and up", tiling.gate_up, gate_up_kernel),
            ("down", tiling.down, down_kernel),
        )
    ),
)
