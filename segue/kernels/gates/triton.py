"""Gates in Triton: a program for a block of a token's columns.

T tokens, I width of an MLP, J = 2 I, Q query heads of X dimensions, N value heads of the gated
delta rule.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.dependent_launch import start

BLOCK = 1024
"""Eight elements a thread of four warps."""
DECAY_BLOCK = 256
NUM_WARPS = 4


@triton.jit
def silu_gate_kernel(gate_up_ptr, out_ptr, row_stride, width, BLOCK_I: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns_I = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    inside_I = columns_I < width
    row_ptr = gate_up_ptr + token * row_stride
    gate_I = tl.load(row_ptr + columns_I, mask=inside_I, other=0.0).to(tl.float32)
    up_I = tl.load(row_ptr + width + columns_I, mask=inside_I, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * width + columns_I, gate_I * tl.sigmoid(gate_I) * up_I, mask=inside_I)


@triton.jit
def sigmoid_gate_kernel(
    x_ptr,
    gate_ptr,
    out_ptr,
    token_stride,
    head_stride,
    width,
    HEAD_DIM: tl.constexpr,
    BLOCK_I: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start(IS_DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    columns_I = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    inside_I = columns_I < width
    here_I = token * width + columns_I
    gates_I = columns_I // HEAD_DIM * head_stride + columns_I % HEAD_DIM
    gates_ptr = gate_ptr + token * token_stride
    x_I = tl.load(x_ptr + here_I, mask=inside_I, other=0.0).to(tl.float32)
    gate_I = tl.load(gates_ptr + gates_I, mask=inside_I, other=0.0).to(tl.float32)
    tl.store(out_ptr + here_I, x_I * tl.sigmoid(gate_I), mask=inside_I)


@triton.jit(do_not_specialize=["num_elements"])
def decay_and_rate_kernel(
    dt_ptr,
    rate_ptr,
    minus_a_ptr,
    dt_bias_ptr,
    log_decay_ptr,
    out_rate_ptr,
    dt_stride,
    rate_stride,
    num_elements,
    NUM_HEADS: tl.constexpr,
    BLOCK_Z: tl.constexpr,
):
    here_Z = tl.program_id(0) * BLOCK_Z + tl.arange(0, BLOCK_Z)
    inside_Z = here_Z < num_elements
    tokens_Z, heads_Z = (here_Z // NUM_HEADS).to(tl.int64), here_Z % NUM_HEADS
    dt_Z = tl.load(dt_ptr + tokens_Z * dt_stride + heads_Z, mask=inside_Z, other=0.0)
    rate_Z = tl.load(rate_ptr + tokens_Z * rate_stride + heads_Z, mask=inside_Z, other=0.0)
    minus_a_Z = tl.load(minus_a_ptr + heads_Z, mask=inside_Z, other=0.0)
    dt_bias_Z = tl.load(dt_bias_ptr + heads_Z, mask=inside_Z, other=0.0)
    log_decay_Z = minus_a_Z * softplus(dt_Z.to(tl.float32) + dt_bias_Z)
    tl.store(log_decay_ptr + here_Z, log_decay_Z, mask=inside_Z)
    tl.store(out_rate_ptr + here_Z, tl.sigmoid(rate_Z.to(tl.float32)), mask=inside_Z)


@triton.jit
def softplus(x):
    """max(x, 0) + log1p(e) with e = exp(-|x|), which cannot overflow.

    log1p by Kahan's method: the quotient corrects the rounding error of 1 + e. If 1 + e rounds to
    1, log1p(e) is e.
    """
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    rounded_e = u - 1.0
    log1p = tl.where(
        rounded_e == 0.0, e, tl.log(u) * e / tl.where(rounded_e == 0.0, 1.0, rounded_e)
    )
    return tl.maximum(x, 0.0) + log1p


def silu_gate(gate_up_TJ: Tensor) -> Tensor:
    """As the reference's."""
    num_tokens, columns = gate_up_TJ.shape
    if columns % 2 or gate_up_TJ.stride(1) != 1:
        raise ValueError(
            "silu_gate takes rows with as many gates as ups, each row contiguous, got shape "
            f"{tuple(gate_up_TJ.shape)}, strides {gate_up_TJ.stride()}"
        )
    width = columns // 2
    out_TI = gate_up_TJ.new_empty(num_tokens, width)
    if out_TI.numel():
        silu_gate_kernel[(num_tokens, triton.cdiv(width, BLOCK))](
            gate_up_TJ, out_TI, gate_up_TJ.stride(0), width, BLOCK_I=BLOCK, num_warps=NUM_WARPS
        )
    return out_TI


def sigmoid_gate(x_TQX: Tensor, gate_TQX: Tensor) -> Tensor:
    """As the reference's."""
    if (
        not x_TQX.is_contiguous()
        or gate_TQX.shape != x_TQX.shape
        or gate_TQX.dtype != x_TQX.dtype
        or gate_TQX.stride(2) != 1
    ):
        raise ValueError(
            "sigmoid_gate takes contiguous x [T, Q, X] and a gate of its shape and dtype with "
            f"contiguous heads, got {tuple(x_TQX.shape)} of {x_TQX.dtype} with strides "
            f"{x_TQX.stride()}, and {tuple(gate_TQX.shape)} of {gate_TQX.dtype} with strides "
            f"{gate_TQX.stride()}"
        )
    num_tokens, num_heads, head_dim = x_TQX.shape
    out_TQX = torch.empty_like(x_TQX)
    if out_TQX.numel():
        width = num_heads * head_dim
        sigmoid_gate_kernel[(num_tokens, triton.cdiv(width, BLOCK))](
            x_TQX,
            gate_TQX,
            out_TQX,
            gate_TQX.stride(0),
            gate_TQX.stride(1),
            width,
            HEAD_DIM=head_dim,
            BLOCK_I=BLOCK,
            num_warps=NUM_WARPS,
            **dependent_launch.options(x_TQX.device),
        )
    return out_TQX


def decay_and_rate(
    dt_TN: Tensor, rate_TN: Tensor, minus_a_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    num_heads = dt_TN.shape[1]
    if rate_TN.shape != dt_TN.shape or dt_TN.stride(1) != 1 or rate_TN.stride(1) != 1:
        raise ValueError(
            "decay_and_rate takes two tensors [T, N] with contiguous rows, got shapes "
            f"{tuple(dt_TN.shape)} and {tuple(rate_TN.shape)}, strides {dt_TN.stride()} and "
            f"{rate_TN.stride()}"
        )
    for vector in (minus_a_N, dt_bias_N):
        if vector.shape != (num_heads,) or vector.dtype != torch.float32:
            raise ValueError(
                f"decay_and_rate takes float32 vectors of {num_heads} heads, got {vector.dtype} "
                f"of shape {tuple(vector.shape)}"
            )
    log_decay_TN = torch.empty(dt_TN.shape, dtype=torch.float32, device=dt_TN.device)
    out_rate_TN = torch.empty_like(log_decay_TN)
    if num_elements := dt_TN.numel():
        decay_and_rate_kernel[(triton.cdiv(num_elements, DECAY_BLOCK),)](
            dt_TN,
            rate_TN,
            minus_a_N.contiguous(),
            dt_bias_N.contiguous(),
            log_decay_TN,
            out_rate_TN,
            dt_TN.stride(0),
            rate_TN.stride(0),
            num_elements,
            NUM_HEADS=num_heads,
            BLOCK_Z=DECAY_BLOCK,
            num_warps=NUM_WARPS,
        )
    return log_decay_TN, out_rate_TN
