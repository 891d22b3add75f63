"""A Gated Delta Net's decode step in two kernels of Triton.

The first is the delta rule's, whose programs convolve their own channels and compute their own
gates. Queries and keys are convolved again by each program of their value heads, from the caches.
So no program may write the inputs that the convolution keeps, which another may not have read yet:
the second kernel does, and norms the outputs. Each number has the same bits as from the kernels of
the four operators one after the other; more rows than the batch-invariant ones are left to these,
as a large batch is bound by the states' bytes and not by launches.

T packed tokens, D sequences, S slots, G key heads, H value heads, K and V head dimensions,
C = 2 G K + H V channels of the convolution, W its width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from segue.kernels import dependent_launch
from segue.kernels.causal_conv.triton import check as check_convolution
from segue.kernels.draft_rounds import kernel_sizes
from segue.kernels.gated_delta_rule.checks import MIN_DIM
from segue.kernels.gated_delta_rule.triton_decode import BLOCK_V
from segue.kernels.gated_delta_step import reference
from segue.kernels.gated_delta_step.reference import StepWeights
from segue.kernels.gated_delta_step.triton_kernels import finish_kernel, step_kernel
from segue.kernels.product.tiling import FEW_ROWS
from segue.kernels.rms_norm.triton_gated import NUM_WARPS, blocks

BLOCK_CHANNELS = 512
"""Four channels a thread, 24 bytes of a slot."""


def gated_delta_step(
    qkv_TC: Tensor,
    gate_THV: Tensor,
    rate_TH: Tensor,
    dt_TH: Tensor,
    weights: StepWeights,
    recurrent_SHKV: Tensor,
    conv_SCW: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """As the reference's."""
    if len(qkv_TC) > FEW_ROWS:
        return reference.gated_delta_step(
            qkv_TC,
            gate_THV,
            rate_TH,
            dt_TH,
            weights,
            recurrent_SHKV,
            conv_SCW,
            slots_in_D=slots_in_D,
            slots_out_T=slots_out_T,
            round_sizes=round_sizes,
        )
    _check(qkv_TC, gate_THV, rate_TH, dt_TH, weights, recurrent_SHKV, conv_SCW)
    sizes = kernel_sizes(round_sizes, num_sequences=len(slots_in_D), num_rows=len(qkv_TC))
    num_heads, k_dim, v_dim = recurrent_SHKV.shape[1:]
    num_tokens, num_channels = qkv_TC.shape
    key_width = (num_channels - num_heads * v_dim) // 2
    width = weights.conv_CW.shape[1]
    out_THV = torch.empty(gate_THV.shape, dtype=torch.float32, device=gate_THV.device)
    normed_THV = torch.empty(gate_THV.shape, dtype=gate_THV.dtype, device=gate_THV.device)
    step_kernel[(v_dim // BLOCK_V, num_heads, round_sizes[0])](
        qkv_TC,
        rate_TH,
        dt_TH,
        weights.conv_CW,
        weights.minus_a_H,
        weights.dt_bias_H,
        recurrent_SHKV,
        conv_SCW,
        out_THV,
        slots_in_D,
        slots_out_T,
        *sizes,
        qkv_TC.stride(0),
        rate_TH.stride(0),
        dt_TH.stride(0),
        NUM_ROUNDS=len(round_sizes),
        NUM_HEADS=num_heads,
        REPEATS=num_heads * k_dim // key_width,
        K=k_dim,
        V=v_dim,
        WIDTH=width,
        BLOCK_V=BLOCK_V,
        num_warps=1,
        **dependent_launch.options(qkv_TC.device),
    )
    block_rows, _ = blocks(v_dim)
    num_norms = triton.cdiv(num_tokens * num_heads, block_rows)
    num_kept = round_sizes[0] * triton.cdiv(num_channels, BLOCK_CHANNELS)
    finish_kernel[(num_norms + num_kept,)](
        out_THV,
        gate_THV,
        weights.norm_V,
        normed_THV,
        qkv_TC,
        conv_SCW,
        slots_in_D,
        slots_out_T,
        num_tokens * num_heads,
        *sizes,
        num_heads,
        gate_THV.stride(0),
        num_channels,
        qkv_TC.stride(0),
        weights.eps,
        NUM_ROUNDS=len(round_sizes),
        V=v_dim,
        WIDTH=width,
        BLOCK_Z=block_rows,
        BLOCK_C=BLOCK_CHANNELS,
        num_warps=NUM_WARPS,
        **dependent_launch.options(qkv_TC.device),
    )
    return normed_THV


def _check(
    qkv_TC: Tensor,
    gate_THV: Tensor,
    rate_TH: Tensor,
    dt_TH: Tensor,
    weights: StepWeights,
    recurrent_SHKV: Tensor,
    conv_SCW: Tensor,
) -> None:
    """Raises `ValueError` if a kernel would read the wrong memory."""
    check_convolution(qkv_TC, weights.conv_CW, conv_SCW)
    num_tokens, num_channels = qkv_TC.shape
    num_heads, k_dim, v_dim = recurrent_SHKV.shape[1:]
    if any(dim < MIN_DIM or dim & (dim - 1) for dim in (k_dim, v_dim)):
        raise ValueError(
            f"head dimensions must be powers of two from {MIN_DIM} on, got {k_dim} and {v_dim}"
        )
    num_k_heads, rest = divmod(num_channels - num_heads * v_dim, 2 * k_dim)
    if rest or num_k_heads < 1 or num_heads % num_k_heads:
        raise ValueError(
            f"{num_channels} channels must be queries and keys of heads of {k_dim}, and values of "
            f"{num_heads} heads of {v_dim}, a multiple of the key heads"
        )
    gates = (gate_THV, rate_TH, dt_TH)
    shapes = ((num_tokens, num_heads, v_dim), (num_tokens, num_heads), (num_tokens, num_heads))
    if any(
        gate.shape != shape or gate[0].stride() != gate[0].contiguous().stride()
        for gate, shape in zip(gates, shapes, strict=True)
    ):
        raise ValueError(
            f"gate, rate and dt must have shapes {shapes} and contiguous tokens, got "
            f"{[(tuple(gate.shape), gate.stride()) for gate in gates]}"
        )
    vectors = (weights.minus_a_H, weights.dt_bias_H, weights.norm_V)
    for vector, size in zip(vectors, (num_heads, num_heads, v_dim), strict=True):
        if vector.shape != (size,) or vector.dtype is not torch.float32 or vector.stride(0) != 1:
            raise ValueError(
                f"minus_a, dt_bias and norm must be contiguous float32 vectors of {num_heads}, "
                f"{num_heads} and {v_dim}, got {vector.dtype} of shape {tuple(vector.shape)}"
            )
    if recurrent_SHKV.dtype is not torch.float32 or not recurrent_SHKV.is_contiguous():
        raise ValueError(
            f"the state must be float32 and contiguous, got {recurrent_SHKV.dtype}, "
            f"strides {recurrent_SHKV.stride()}"
        )
