"""The way into attention in plain PyTorch: norm, rotation and pages, one after the other.

T packed tokens, Y columns of the projection, N heads of any kind, Q query heads, G key/value heads,
X head dimension, R rotated dimensions, Z pages of O tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.constants import constant, indexes
from segue.kernels.rms_norm.reference import rms_norm
from segue.kernels.rotary.reference import rotate_


def attention_input(
    packed_TY: Tensor,
    q_norm_X: Tensor,
    k_norm_X: Tensor,
    cos_T1R: Tensor,
    sin_T1R: Tensor,
    pages_Z2OGX: Tensor,
    *,
    pages_T: Tensor,
    offsets_T: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    num_tokens, (num_kv_heads, head_dim) = len(packed_TY), pages_Z2OGX.shape[3:]
    num_heads = packed_TY.shape[1] // (2 * head_dim) - num_kv_heads
    parts_TNX = packed_TY.view(num_tokens, 2 * (num_heads + num_kv_heads), head_dim)
    # Queries and keys together: half the calls.
    places_N = _queries_and_keys(num_heads, num_kv_heads, packed_TY.device)
    weight_NX = torch.cat([q_norm_X.expand(num_heads, -1), k_norm_X.expand(num_kv_heads, -1)])
    q_k_TNX = parts_TNX.index_select(1, places_N)
    q_k_TNX = _normed_and_rotated(q_k_TNX, weight_NX, cos_T1R, sin_T1R, eps)
    k_TGX, v_TGX = q_k_TNX[:, num_heads:], parts_TNX[:, -num_kv_heads:]
    _write_pages(k_TGX, v_TGX, pages_Z2OGX, pages_T=pages_T, offsets_T=offsets_T)
    return q_k_TNX[:, :num_heads], parts_TNX[:, 1 : 2 * num_heads : 2]


def store_keys_and_values(
    packed_TY: Tensor,
    k_norm_X: Tensor,
    cos_T1R: Tensor,
    sin_T1R: Tensor,
    pages_Z2OGX: Tensor,
    *,
    pages_T: Tensor,
    offsets_T: Tensor,
    eps: float,
) -> None:
    num_tokens = len(packed_TY)
    num_kv_heads, head_dim = pages_Z2OGX.shape[3:]
    kv_T2GX = packed_TY.view(num_tokens, 2, num_kv_heads, head_dim)
    k_TGX, v_TGX = kv_T2GX.unbind(1)
    k_TGX = _normed_and_rotated(k_TGX, k_norm_X, cos_T1R, sin_T1R, eps)
    _write_pages(k_TGX, v_TGX, pages_Z2OGX, pages_T=pages_T, offsets_T=offsets_T)


def _normed_and_rotated(
    x_TNX: Tensor, norm: Tensor, cos_T1R: Tensor, sin_T1R: Tensor, eps: float
) -> Tensor:
    return rotate_(rms_norm(x_TNX.float(), norm, eps=eps), cos_T1R, sin_T1R).to(x_TNX.dtype)


def _queries_and_keys(num_heads: int, num_kv_heads: int, device: torch.device) -> Tensor:
    """Where they are among the parts of a projection: a gate follows each query."""
    keys = range(2 * num_heads, 2 * num_heads + num_kv_heads)
    return indexes((*range(0, 2 * num_heads, 2), *keys), device)


def _write_pages(
    k_TGX: Tensor, v_TGX: Tensor, pages_Z2OGX: Tensor, *, pages_T: Tensor, offsets_T: Tensor
) -> None:
    """Pages as rows of one token each: the value of a key lies as many rows later as a page has."""
    page_tokens = pages_Z2OGX.shape[2]
    rows_ZGX = pages_Z2OGX.view(-1, *k_TGX.shape[1:])
    key_rows_T = torch.add(offsets_T, pages_T, alpha=2 * page_tokens)
    rows_ZGX.index_copy_(0, key_rows_T, k_TGX)
    rows_ZGX.index_copy_(0, key_rows_T + constant(page_tokens, pages_T.device), v_TGX)
