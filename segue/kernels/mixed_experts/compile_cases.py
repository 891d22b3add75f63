"""The sizes at which a mixture of experts for few tokens is compiled ahead of time: Qwen3.5-35B-A3B
in bfloat16 and FP8, and Qwen3.5-397B-A17B in NVFP4."""

from __future__ import annotations

from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.mixed_experts.triton import BLOCK_H, SUM_WARPS
from segue.kernels.mixed_experts.triton_choice import choose_first_kernel
from segue.kernels.mixed_experts.triton_kernels import sum_kernel, tiles_kernel
from segue.kernels.moe.compile_cases import TABLES
from segue.kernels.moe.tiling import STREAMING
from segue.kernels.product.compile_cases import WEIGHTS
from segue.kernels.product.tiling import QUANTIZED

_CHOOSING, _FIRST, _SECOND = "choice and first product", "first product", "second product"
_SIZES = ("hidden_size", "width", "shared_width", "num_scales", "shared_num_scales")


def _product(name: str, stored: str) -> CompileCase:
    pointers = {
        f"{of_which}{pointer}": kind
        for of_which in ("", "shared_")
        for pointer, kind in WEIGHTS[stored].items()
    }
    # A scale for 16 columns is read a byte at a time.
    copies = ("cp.async",) if stored == "NVFP4" else ("cp.async.cg.shared.global", ", 0x10,")
    tile = QUANTIZED
    if stored == "bfloat16":
        tile = STREAMING.down if name == _SECOND else STREAMING.gate_up
    is_choosing = name == _CHOOSING
    own = of("i32", "num_experts first_expert num_held") if is_choosing else {}
    constants = {"BLOCK_A": 8, "BLOCK_E": 256} if is_choosing else {"IS_FIRST": name == _FIRST}
    aligned = _SIZES if stored != "FP8" else _SIZES[:3]
    return CompileCase.of_launch(
        name=f"mixed experts, {name} in {stored}",
        kernel=choose_first_kernel if is_choosing else tiles_kernel,
        arguments={
            **of("*bf16", "x_ptr out_ptr"),
            **pointers,
            **TABLES,
            **dict.fromkeys(("num_tokens", *_SIZES), "i32"),
            **({"logits_ptr": "*bf16", "weights_ptr": "*fp32"} if is_choosing else {}),
            **own,
        },
        constants={"A": 8, **constants},
        aligned=frozenset((*aligned, *own)),
        options=tile.options(STREAMING.rows),
        early=frozenset(pointer for pointer in pointers if pointer.startswith("shared_")),
        instructions=dict.fromkeys(CHIPS, (*copies, "mma.sync.aligned.m16n8k16")),
    )


COMPILE_CASES = (
    *(_product(name, stored) for stored in WEIGHTS for name in (_CHOOSING, _FIRST, _SECOND)),
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
