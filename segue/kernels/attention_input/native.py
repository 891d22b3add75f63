"""The input of attention on a CPU: norm, rotation and pages in one pass over the projection."""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.native.library import UnsuitableInputs, are_plain, operators
from segue.kernels.paged_attention.e4m3 import E4M3, UNSCALED, Scales

_run = operators("attention_input", "ppppppppp" + "lllllll" + "f" + "lff")
_MAX_WIDTH = 1024


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
    tables = (cos_T1R, sin_T1R)
    if not _fits(packed_TY, (q_norm_X, k_norm_X, *tables), pages_Z2GOX, (pages_T, offsets_T)):
        raise UnsuitableInputs
    num_kv_heads, head_dim = pages_Z2GOX.shape[2::2]
    num_heads = packed_TY.shape[1] // (2 * head_dim) - num_kv_heads
    parts_TNX = packed_TY.view(len(packed_TY), -1, head_dim)
    q_TQX = torch.empty(len(packed_TY), num_heads, head_dim, dtype=packed_TY.dtype)
    places, norms = (pages_T, offsets_T), (q_norm_X, k_norm_X)
    _store(packed_TY, norms, tables, q_TQX, pages_Z2GOX, places, eps, scales)
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
    tables = (cos_T1R, sin_T1R)
    if not _fits(packed_TY, (k_norm_X, *tables), pages_Z2GOX, (pages_T, offsets_T)):
        raise UnsuitableInputs
    places, norms = (pages_T, offsets_T), (k_norm_X, k_norm_X)
    _store(packed_TY, norms, tables, None, pages_Z2GOX, places, eps, scales)


def _store(
    packed_TY: Tensor,
    norms: tuple[Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    q_TQX: Tensor | None,
    pages_Z2GOX: Tensor,
    places: tuple[Tensor, Tensor],
    eps: float,
    scales: Scales,
) -> None:
    num_kv_heads, page_tokens, head_dim = pages_Z2GOX.shape[2:]
    _run(packed_TY.dtype)(
        packed_TY.data_ptr(),
        *(norm.data_ptr() for norm in norms),
        *(table.data_ptr() for table in tables),
        None if q_TQX is None else q_TQX.data_ptr(),
        pages_Z2GOX.data_ptr(),
        *(place.data_ptr() for place in places),
        len(packed_TY),
        0 if q_TQX is None else q_TQX.shape[1],
        num_kv_heads,
        head_dim,
        tables[0].shape[-1],
        page_tokens,
        pages_Z2GOX.shape[0],
        eps,
        pages_Z2GOX.dtype is E4M3,
        1 / scales[0],
        1 / scales[1],
    )


def _fits(
    packed_TY: Tensor,
    floats: tuple[Tensor, ...],
    pages_Z2GOX: Tensor,
    places: tuple[Tensor, Tensor],
) -> bool:
    return (
        pages_Z2GOX.shape[4] <= _MAX_WIDTH
        and are_plain(packed_TY.dtype, packed_TY)
        and pages_Z2GOX.dtype in (packed_TY.dtype, E4M3)
        and pages_Z2GOX.is_contiguous()
        and are_plain(torch.float32, *floats)
        and are_plain(torch.int64, *places)
    )
