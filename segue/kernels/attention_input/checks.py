"""Checks of the inputs of attention's input kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.paged_attention.e4m3 import E4M3


def check(
    packed_TY: Tensor,
    norms: tuple[Tensor, ...],
    tables: tuple[Tensor, Tensor],
    pages_Z2GOX: Tensor,
    places: tuple[Tensor, Tensor],
) -> None:
    """Raises ValueError. `norms` are those of queries and keys, or of keys alone; `places` the
    tokens' pages and offsets."""
    if pages_Z2GOX.ndim != 5 or pages_Z2GOX.shape[1] != 2 or not pages_Z2GOX.is_contiguous():
        raise ValueError(
            "attention's input goes to contiguous pages [Z, 2, G, O, X], got "
            f"{tuple(pages_Z2GOX.shape)} with strides {pages_Z2GOX.stride()}"
        )
    _check_projection(packed_TY, pages_Z2GOX, has_queries=len(norms) == 2)
    num_tokens, head_dim = len(packed_TY), pages_Z2GOX.shape[4]
    _check_tables(tables, num_tokens, head_dim)
    for norm in norms:
        if norm.shape != (head_dim,):
            raise ValueError(f"a head's norm has shape ({head_dim},), got {tuple(norm.shape)}")
    for place in places:
        if place.shape != (num_tokens,):
            raise ValueError(
                f"each of {num_tokens} tokens has a page and an offset, got {tuple(place.shape)}"
            )
    if not all(x.is_contiguous() for x in (*norms, *tables, *places)):
        raise ValueError("norms, rotary tables, pages and offsets must be contiguous")


def _check_projection(packed_TY: Tensor, pages_Z2GOX: Tensor, *, has_queries: bool) -> None:
    num_kv_heads, head_dim = pages_Z2GOX.shape[2::2]
    columns = packed_TY.shape[1]
    # The columns left for queries and gates, a pair for each head.
    rest = columns - 2 * num_kv_heads * head_dim
    if rest % (2 * head_dim) or rest < 0 or (rest > 0) != has_queries:
        wanted = "queries and their gates" if has_queries else "nothing"
        raise ValueError(
            f"a token's projection has {wanted} before 2 · {num_kv_heads} heads of {head_dim} "
            f"for its keys and values, got {columns} columns"
        )
    if packed_TY.stride(1) != 1 or pages_Z2GOX.dtype not in (packed_TY.dtype, E4M3):
        raise ValueError(
            "attention's input needs a projection with contiguous rows, of the pages' dtype "
            f"{pages_Z2GOX.dtype}, or pages of {E4M3}, got {packed_TY.dtype} with strides "
            f"{packed_TY.stride()}"
        )


def _check_tables(tables: tuple[Tensor, Tensor], num_tokens: int, head_dim: int) -> None:
    rotary_dim = tables[0].shape[-1]
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise ValueError(f"rotated dimensions must be even and <= {head_dim}, got {rotary_dim}")
    for table in tables:
        if table.shape != (num_tokens, 1, rotary_dim) or table.dtype != torch.float32:
            raise ValueError(
                f"rotary tables are float32 of shape ({num_tokens}, 1, rotated dimensions), got "
                f"{table.dtype} of shape {tuple(table.shape)}"
            )
