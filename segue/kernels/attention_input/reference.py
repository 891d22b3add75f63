"""The input of attention in plain PyTorch: norm, rotation and pages, one after the other.

T packed tokens, Y columns of the projection, N heads of any kind, Q query heads, G key/value heads,
X head dimension, R rotated dimensions, Z pages of O tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.constants import indexes
from segue.kernels.paged_attention.e4m3 import UNSCALED, Scales, as_bytes, stored
from segue.kernels.rms_norm.reference import rms_norm
from segue.kernels.rotary.reference import rotate_


def attention_input(
    packed_TY: Tensor,
    q_norm_X: Tensor,
    k_norm_X: Tensor,
    cos_T1R: Tensor,
    sin_T1R: Tensor,
    pages_Z2GOX: Tensor,
    *,
    pages_T: Tensor,
    offsets_T: Tensor,
    eps: float,
    scales: Scales = UNSCALED,
) -> tuple[Tensor, Tensor]:
    """Queries and output gates, each [T, Q, X]. Stores keys and values in `pages`, in place.

    `packed` [T, (2 Q + 2 G) X] has each query head's query and gate, one after the other; then all
    keys, then all values. The returned gates are a view of it. Queries and keys are normed
    (`rms_norm` with weight 1 + `norm`, over a head) and rotated by the tables of `rotary_tables`,
    in float32, and rounded once. `pages` [Z, 2, G, O, X] has the dtype of `packed`, or e4m3 codes
    with these scales; token t goes to place `offsets[t]` of page `pages[t]`.
    """
    num_tokens, num_kv_heads, head_dim = len(packed_TY), *pages_Z2GOX.shape[2::2]
    num_heads = packed_TY.shape[1] // (2 * head_dim) - num_kv_heads
    parts_TNX = packed_TY.view(num_tokens, 2 * (num_heads + num_kv_heads), head_dim)
    # Queries and keys together take half the calls.
    places_N = _queries_and_keys(num_heads, num_kv_heads, packed_TY.device)
    weight_NX = torch.cat([q_norm_X.expand(num_heads, -1), k_norm_X.expand(num_kv_heads, -1)])
    q_k_TNX = parts_TNX.index_select(1, places_N)
    q_k_TNX = _normed_and_rotated(q_k_TNX, weight_NX, cos_T1R, sin_T1R, eps)
    k_TGX, v_TGX = q_k_TNX[:, num_heads:], parts_TNX[:, -num_kv_heads:]
    _write_pages(k_TGX, v_TGX, pages_Z2GOX, (pages_T, offsets_T), scales)
    q_TQX = q_k_TNX[:, :num_heads].to(packed_TY.dtype)
    return q_TQX, parts_TNX[:, 1 : 2 * num_heads : 2]


def store_keys_and_values(
    packed_TY: Tensor,
    k_norm_X: Tensor,
    cos_T1R: Tensor,
    sin_T1R: Tensor,
    pages_Z2GOX: Tensor,
    *,
    pages_T: Tensor,
    offsets_T: Tensor,
    eps: float,
    scales: Scales = UNSCALED,
) -> None:
    """`attention_input` without queries: `packed` [T, 2 G X] has all keys, then all values."""
    num_tokens = len(packed_TY)
    num_kv_heads, head_dim = pages_Z2GOX.shape[2::2]
    kv_T2GX = packed_TY.view(num_tokens, 2, num_kv_heads, head_dim)
    k_TGX, v_TGX = kv_T2GX.unbind(1)
    k_TGX = _normed_and_rotated(k_TGX, k_norm_X, cos_T1R, sin_T1R, eps)
    _write_pages(k_TGX, v_TGX, pages_Z2GOX, (pages_T, offsets_T), scales)


def _normed_and_rotated(
    x_TNX: Tensor, norm: Tensor, cos_T1R: Tensor, sin_T1R: Tensor, eps: float
) -> Tensor:
    """In float32."""
    return rotate_(rms_norm(x_TNX.float(), norm, eps=eps), cos_T1R, sin_T1R)


def _queries_and_keys(num_heads: int, num_kv_heads: int, device: torch.device) -> Tensor:
    """Their indexes among the parts of a projection: a gate follows each query."""
    keys = range(2 * num_heads, 2 * num_heads + num_kv_heads)
    return indexes((*range(0, 2 * num_heads, 2), *keys), device)


def _write_pages(
    k_TGX: Tensor,
    v_TGX: Tensor,
    pages_Z2GOX: Tensor,
    places: tuple[Tensor, Tensor],
    scales: Scales,
) -> None:
    dtype, pages_Z2OGX = pages_Z2GOX.dtype, as_bytes(pages_Z2GOX).transpose(2, 3)
    for part, x_TGX in enumerate((k_TGX, v_TGX)):
        codes_TGX = as_bytes(stored(x_TGX, scales[part], dtype))
        pages_Z2OGX[:, part].index_put_(places, codes_TGX)
