"""The sizes at which a mixture of experts for few tokens is compiled ahead of time: Qwen3.5-35B-A3B
in bfloat16 and FP8, and Qwen3.5-397B-A17B in NVFP4."""

from __future__ import annotations

from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.mixed_experts.triton import BLOCK_H, QUANTIZED, SUM_WARPS
from segue.kernels.mixed_experts.triton_choice import choose_first_kernel
from segue.kernels.mixed_experts.triton_kernels import first_kernel, second_kernel, sum_kernel
from segue.kernels.moe.compile_cases import TABLES
from segue.kernels.moe.tiling import STREAMING

_NUMBERS, _SCALES, _ROW_SCALES = "numbers_ptr", "scales_ptr", "row_scales_ptr"
_FORMATS = {
    "bfloat16": {_NUMBERS: "*bf16"},
    "FP8": {_NUMBERS: "*u8", _SCALES: "*fp32"},
    "NVFP4": {_NUMBERS: "*u8", _SCALES: "*u8", _ROW_SCALES: "*fp32"},
}
_KERNELS = {
    "choice and first product": choose_first_kernel,
    "first product": first_kernel,
    "second product": second_kernel,
}
_SIZES = ("hidden_size", "width", "shared_width", "num_scales", "shared_num_scales")


def _product(name: str, stored: str) -> CompileCase:
    is_second = name == "second product"
    pointers = {
        f"{of_which}{pointer}": kind
        for of_which in ("", "shared_")
        for pointer, kind in _FORMATS[stored].items()
    }
    every = [f"{w}{pointer}" for w in ("", "shared_") for pointer in (_SCALES, _ROW_SCALES)]
    # A scale for 16 columns is read a byte at a time.
    copies = ("cp.async",) if stored == "NVFP4" else ("cp.async.cg.shared.global", ", 0x10,")
    tile = QUANTIZED
    if stored == "bfloat16":
        tile = STREAMING.down if is_second else STREAMING.gate_up
    is_choosing = name == "choice and first product"
    choosing = (
        {
            "logits_ptr": "*bf16",
            "weights_ptr": "*fp32",
            **of("i32", "num_experts first_expert num_held"),
        }
        if is_choosing
        else {}
    )
    aligned = _SIZES if stored != "FP8" else _SIZES[:3]
    return CompileCase(
        name=f"mixed experts, {name} in {stored}",
        kernel=_KERNELS[name],
        arguments={
            **of("*bf16", "h_ptr y_ptr" if is_second else "x_ptr h_ptr"),
            **pointers,
            **TABLES,
            **dict.fromkeys(("num_tokens", *_SIZES), "i32"),
            **choosing,
        },
        constants={
            **{pointer: None for pointer in every if pointer not in pointers},
            "A": 8,
            **({"BLOCK_A": 8, "BLOCK_E": 256} if is_choosing else {}),
            "BLOCK_M": STREAMING.rows,
            "BLOCK_N": tile.columns,
            "BLOCK_K": tile.depth,
        },
        aligned=frozenset((*aligned, *(("num_experts", "first_expert", "num_held") * is_choosing))),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        early=frozenset(pointer for pointer in pointers if pointer.startswith("shared_")),
        instructions=dict.fromkeys(CHIPS, (*copies, "mma.sync.aligned.m16n8k16")),
    )


COMPILE_CASES = (
    *(_product(name, stored) for stored in _FORMATS for name in _KERNELS),
    CompileCase(
        name="mixed experts, sum",
        kernel=sum_kernel,
        arguments={
            **of("*bf16", "y_ptr x_ptr shared_gate_ptr out_ptr"),
            **of("*fp32", "weights_ptr"),
            **of("i32", "hidden_size"),
        },
        constants={"A": 8, "BLOCK_H": BLOCK_H},
        aligned=frozenset({"hidden_size"}),
        num_warps=SUM_WARPS,
        early=frozenset({"shared_gate_ptr"}),
    ),
)
