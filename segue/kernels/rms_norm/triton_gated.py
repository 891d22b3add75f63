"""The gated RMS norm of GDN layers in Triton: a program for a few heads, which are read once.

A head is short (128): a program for a single one would have a quarter of a warp's usual work. T
tokens, N heads of a token, Z = T · N rows, H width of a head, BLOCK_H the next power of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ELEMENTS = 1024
"""Per program: eight for each thread of four warps."""
NUM_WARPS = 4


@triton.jit
def norm_rows(
    x_ptr,
    gate_ptr,
    weight_ptr,
    out_ptr,
    block,
    num_rows,
    num_heads,
    gate_stride,
    width,
    eps,
    BLOCK_Z: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """The rows of one program."""
    # The division is in 32 bits, which is faster; addresses are in 64 bits.
    rows_Z = block * BLOCK_Z + tl.arange(0, BLOCK_Z)
    tokens_Z, heads_Z = (rows_Z // num_heads).to(tl.int64), rows_Z % num_heads
    # Weights are loaded again for each row: they come from L1 into the threads that need them.
    column = tl.broadcast_to(tl.arange(0, BLOCK_H)[None, :], (BLOCK_Z, BLOCK_H))
    inside = (rows_Z < num_rows)[:, None] & (column < width)
    here = rows_Z[:, None].to(tl.int64) * width + column
    gates = gate_ptr + (tokens_Z * gate_stride + heads_Z * width)[:, None] + column
    x = tl.load(x_ptr + here, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gates, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    scale_Z = tl.rsqrt(tl.sum(x * x, axis=1) / width + eps)
    out = x * scale_Z[:, None] * weight * gate * tl.sigmoid(gate)
    tl.store(out_ptr + here, out, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def gated_rms_norm_kernel(
    x_ptr,
    gate_ptr,
    weight_ptr,
    out_ptr,
    num_rows,
    num_heads,
    gate_stride,
    width,
    eps,
    BLOCK_Z: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    tensors, block = (x_ptr, gate_ptr, weight_ptr, out_ptr), tl.program_id(0)
    norm_rows(*tensors, block, num_rows, num_heads, gate_stride, width, eps, BLOCK_Z, BLOCK_H)


def gated_rms_norm(x: Tensor, gate: Tensor, weight_H: Tensor, *, eps: float) -> Tensor:
    """As the reference's."""
    _check(x, gate, weight_H)
    out = torch.empty(x.shape, dtype=gate.dtype, device=gate.device)
    num_tokens, num_heads, width = x.shape
    if x.numel():
        block_rows, block_width = blocks(width)
        grid = (triton.cdiv(num_tokens * num_heads, block_rows),)
        gated_rms_norm_kernel[grid](
            x,
            gate,
            weight_H,
            out,
            num_tokens * num_heads,
            num_heads,
            gate.stride(0),
            width,
            eps,
            BLOCK_Z=block_rows,
            BLOCK_H=block_width,
            num_warps=NUM_WARPS,
        )
    return out


def blocks(width: int) -> tuple[int, int]:
    """Rows and columns per program."""
    block_width = triton.next_power_of_2(width)
    return max(BLOCK_ELEMENTS // block_width, 1), block_width


def _check(x: Tensor, gate: Tensor, weight_H: Tensor) -> None:
    if x.ndim != 3 or not x.is_contiguous() or gate.shape != x.shape:
        raise ValueError(
            "gated_rms_norm takes contiguous x [tokens, heads, width] and a gate of its shape, got "
            f"{tuple(x.shape)} with strides {x.stride()}, and {tuple(gate.shape)}"
        )
    if x.numel() and gate.stride()[1:] != (x.shape[2], 1):
        raise ValueError(
            "gated_rms_norm takes a gate with contiguous heads in each token, got shape "
            f"{tuple(gate.shape)}, strides {gate.stride()}; call contiguous() first"
        )
    if weight_H.shape != x.shape[2:] or not weight_H.is_contiguous():
        raise ValueError(
            f"gated_rms_norm takes a contiguous weight of shape ({x.shape[2]},), as wide as a "
            f"head, got shape {tuple(weight_H.shape)}, strides {weight_H.stride()}"
        )
