"""The sizes of Qwen3.5-35B-A3B at which its kernels are compiled ahead of time."""

from __future__ import annotations

from typing import Any

from segue.kernels.compile_case import TENSOR_CORES, CompileCase, of
from segue.kernels.moe.tiling import DENSE, MIDDLE, STREAMING, Tiling
from segue.kernels.moe.triton import BLOCK_H, combine_kernel
from segue.kernels.moe.triton_experts import experts_kernel
from segue.kernels.moe.triton_routing import (
    BLOCK_B,
    BLOCK_T,
    choose_kernel,
    num_warps,
    place_kernel,
    plan_kernel,
    route_few_kernel,
)
from segue.kernels.product.tiling import Tile

BLOCK_A, BLOCK_E = 8, 256
TABLES = of("*i32", "pairs_ptr tile_expert_ptr tile_first_ptr tile_stop_ptr num_tiles_ptr")
COPIES = ("cp.async.cg.shared.global", ", 0x10,")
"""Asynchronous, 16 bytes at a time."""
SMALL_TILES = dict.fromkeys(TENSOR_CORES, (*COPIES, "mma.sync.aligned.m16n8k16"))
LARGE_TILES = {chip: (*COPIES, *products) for chip, products in TENSOR_CORES.items()}


def _product(name: str, tiling: Tiling, tile: Tile, *, is_first: bool) -> CompileCase:
    return CompileCase.of_launch(
        name=f"MoE {name}, {tiling.rows} rows",
        kernel=experts_kernel,
        arguments={
            **of("*bf16", "x_ptr numbers_ptr out_ptr"),
            **TABLES,
            **of("i32", "num_outputs x_columns num_scales"),
        },
        constants={"A": 8, "IS_FIRST": is_first},
        options=tile.options(tiling.rows),
        aligned=frozenset({"num_outputs", "x_columns", "num_scales"}),
        instructions=SMALL_TILES if tiling is STREAMING else LARGE_TILES,
    )


def _routing(
    name: str, kernel: Any, arguments: dict[str, str], blocks: dict[str, int]
) -> CompileCase:
    constants = {"BLOCK_E": BLOCK_E, **blocks}
    return CompileCase(
        name=f"MoE routing{name}",
        kernel=kernel,
        arguments={**arguments, "num_experts": "i32"},
        constants=constants,
        aligned=frozenset({"num_experts"}),
        num_warps=num_warps(constants.get("BLOCK_T", BLOCK_B) * BLOCK_E),
    )


_CHOICE = {**of("*bf16", "logits_ptr"), **of("*fp32", "weights_ptr"), **of("i32", "num_tokens")}
_TILES = {name: kind for name, kind in TABLES.items() if name != "pairs_ptr"}
_FOR_TOKENS = {"A": 8, "BLOCK_T": BLOCK_T}

COMPILE_CASES = (
    _routing(
        ", 32 tokens",
        route_few_kernel,
        {**_CHOICE, **TABLES},
        {**_FOR_TOKENS, "BLOCK_A": BLOCK_A, "BLOCK_M": STREAMING.rows},
    ),
    _routing(
        " of many tokens, choice",
        choose_kernel,
        {**_CHOICE, **of("*i8", "ranks_ptr"), **of("*i32", "counts_ptr")},
        {**_FOR_TOKENS, "BLOCK_A": BLOCK_A},
    ),
    _routing(
        " of many tokens, plan",
        plan_kernel,
        {**of("*i32", "counts_ptr before_ptr first_ptr"), **_TILES, **of("i32", "num_blocks")},
        {"BLOCK_B": BLOCK_B, "BLOCK_M": DENSE.rows},
    ),
    _routing(
        " of many tokens, places",
        place_kernel,
        {
            **of("*i8", "ranks_ptr"),
            **of("*i32", "before_ptr first_ptr pairs_ptr"),
            **of("i32", "num_tokens"),
        },
        _FOR_TOKENS,
    ),
    CompileCase(
        name="MoE sum",
        kernel=combine_kernel,
        arguments={
            **of("*bf16", "y_ptr shared_ptr shared_gate_ptr out_ptr"),
            **of("*fp32", "weights_ptr"),
            **of("i32", "hidden_size"),
        },
        constants={"A": 8, "BLOCK_H": BLOCK_H},
        aligned=frozenset({"hidden_size"}),
        num_warps=2,
    ),
    *(
        _product(name, tiling, tile, is_first=is_first)
        for tiling in (STREAMING, MIDDLE, DENSE)
        for name, tile, is_first in (
            ("gate and up", tiling.gate_up, True),
            ("down", tiling.down, False),
        )
    ),
)
