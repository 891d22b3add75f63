"""Checks of the inputs of both gated delta rule kernels."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_DIM = 16
"""Smallest head dimension that tensor cores multiply."""


def check(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
) -> None:
    """Raises `ValueError` if a kernel would read the wrong memory."""
    _check_shapes(q_TGK, k_TGK, v_THV, state_SHKV)
    for name, rows in (("q", q_TGK), ("k", k_TGK), ("v", v_THV)):
        if rows.stride(2) != 1 or rows.stride(1) != rows.shape[2]:
            raise ValueError(
                f"each row of {name} must have contiguous heads, got shape {tuple(rows.shape)}, "
                f"strides {rows.stride()}; call contiguous() first"
            )
    for name, gate in (("log_decay", log_decay_TH), ("rate", rate_TH)):
        if gate.dtype is not torch.float32 or gate.stride(1) != 1 or gate.ndim != 2:
            raise ValueError(
                f"{name} must be float32 [T, H] with contiguous rows, got {gate.dtype}, "
                f"shape {tuple(gate.shape)}, strides {gate.stride()}"
            )
    if not len({q_TGK.dtype, k_TGK.dtype, v_THV.dtype}) == 1:
        raise ValueError(
            f"q, k and v must have one dtype, got {q_TGK.dtype}, {k_TGK.dtype}, {v_THV.dtype}"
        )
    if state_SHKV.dtype is not torch.float32 or not state_SHKV.is_contiguous():
        raise ValueError(
            f"the state must be float32 and contiguous, got {state_SHKV.dtype}, "
            f"strides {state_SHKV.stride()}"
        )


def _check_shapes(q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, state_SHKV: Tensor) -> None:
    num_k_heads, k_dim = q_TGK.shape[1:]
    num_v_heads, v_dim = v_THV.shape[1:]
    if any(dim < MIN_DIM or dim & (dim - 1) for dim in (k_dim, v_dim)):
        raise ValueError(
            f"head dimensions must be powers of two from {MIN_DIM} on, got {k_dim} and {v_dim}"
        )
    expected = (num_v_heads, k_dim, v_dim)
    if k_TGK.shape != q_TGK.shape or state_SHKV.shape[1:] != expected or num_v_heads % num_k_heads:
        raise ValueError(
            f"q and k [T, G, K], v [T, H, V] and a state [S, H, K, V] with H a multiple of G are "
            f"needed, got {tuple(q_TGK.shape)}, {tuple(k_TGK.shape)}, {tuple(v_THV.shape)}, "
            f"{tuple(state_SHKV.shape)}"
        )
