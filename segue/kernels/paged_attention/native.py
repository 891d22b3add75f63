"""Attention on a CPU, which reads pages where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.native.library import UnsuitableInputs, are_plain, longs, operators
from segue.kernels.paged_attention.e4m3 import E4M3, UNSCALED, Scales

_attend = operators("attend", "pppppp" + "llllllll" + "lff")
_prefill = operators("attend_prefill", "pppppp" + "lllllll" + "lff")
_LANES = 16
"""Of the widest vectors; others divide it."""


def attend_decode(
    q_DQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
    scales: Scales = UNSCALED,
) -> Tensor:
    if not _fits(q_DQX, pages_Z2GOX, page_table_DP, lengths_D):
        raise UnsuitableInputs
    sizes = (len(q_DQX),)
    return _run(q_DQX, pages_Z2GOX, page_table_DP, lengths_D, sizes, first_position, scales)


def attend_prefill(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    cu_tokens_N1: Tensor,
    starts_N: Tensor,
    page_table_NP: Tensor,
    scales: Scales = UNSCALED,
) -> Tensor:
    if not _fits(q_TQX, pages_Z2GOX, cu_tokens_N1, starts_N, page_table_NP):
        raise UnsuitableInputs
    q_TQX = q_TQX.contiguous()
    out_TQX = torch.empty(q_TQX.shape, dtype=q_TQX.dtype)
    num_pages, _, num_kv_heads, page_tokens, head_dim = pages_Z2GOX.shape
    _prefill(q_TQX.dtype)(
        q_TQX.data_ptr(),
        pages_Z2GOX.data_ptr(),
        cu_tokens_N1.data_ptr(),
        starts_N.data_ptr(),
        page_table_NP.data_ptr(),
        out_TQX.data_ptr(),
        len(starts_N),
        page_table_NP.shape[1],
        q_TQX.shape[1],
        num_pages,
        num_kv_heads,
        page_tokens,
        head_dim,
        pages_Z2GOX.dtype is E4M3,
        *scales,
    )
    return out_TQX


def attend_verify(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    round_sizes: Sequence[int],
    scales: Scales = UNSCALED,
) -> Tensor:
    if not _fits(q_TQX, pages_Z2GOX, page_table_DP, lengths_D):
        raise UnsuitableInputs
    sizes = tuple(round_sizes)
    return _run(q_TQX, pages_Z2GOX, page_table_DP, lengths_D, sizes, 0, scales)


def _run(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    round_sizes: tuple[int, ...],
    first_position: int,
    scales: Scales,
) -> Tensor:
    q_TQX = q_TQX.contiguous()
    out_TQX = torch.empty(q_TQX.shape, dtype=q_TQX.dtype)
    num_pages, _, num_kv_heads, page_tokens, head_dim = pages_Z2GOX.shape
    _attend(q_TQX.dtype)(
        q_TQX.data_ptr(),
        pages_Z2GOX.data_ptr(),
        page_table_DP.data_ptr(),
        lengths_D.data_ptr(),
        longs(round_sizes),
        out_TQX.data_ptr(),
        len(round_sizes),
        page_table_DP.shape[1],
        first_position,
        q_TQX.shape[1],
        num_pages,
        num_kv_heads,
        page_tokens,
        head_dim,
        pages_Z2GOX.dtype is E4M3,
        *scales,
    )
    return out_TQX


def _fits(q_TQX: Tensor, pages_Z2GOX: Tensor, *indexes: Tensor) -> bool:
    return (
        q_TQX.shape[2] % _LANES == 0
        and pages_Z2GOX.dtype in (q_TQX.dtype, E4M3)
        and pages_Z2GOX.is_contiguous()
        and are_plain(torch.int64, *indexes)
    )
