"""Paged attention in plain PyTorch.

T packed tokens, N sequences of a prefill, D sequences of a decode, J draft rounds, Z pages of the
pool, P pages of the longest sequence, O tokens of a page, Q query heads, G key/value heads (Q / G
queries share one), X head dimension, L tokens of a sequence.

`pages` [Z, 2, G, O, X]: keys, then values, head by head, of O consecutive tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.constants import indexes

QUERY_BLOCK_TOKENS = 512
"""Limits the mask size for a prefill that continues a long prefix."""


def attend_decode(
    q_DQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
) -> Tensor:
    """Outputs [D, Q, X] of one query a sequence over its first `lengths` tokens, already stored.

    Tokens before `first_position` are not seen. Zeros if none are left.
    """
    num_sequences, num_heads, head_dim = q_DQX.shape
    if num_sequences == 1:
        length = int(lengths_D)
        k_GLX, v_GLX = _keys_and_values(pages_Z2GOX, page_table_DP[0], length, first_position)
        return _attend_prefill(q_DQX, k_GLX, v_GLX)
    num_kv_heads = pages_Z2GOX.shape[2]
    k_DGLX, v_DGLX = _of_sequences(pages_Z2GOX, page_table_DP, lengths_D, first_position)
    end = first_position + k_DGLX.shape[2]
    index_L = torch.arange(first_position, end, device=q_DQX.device)
    is_real_DL = index_L < lengths_D.unsqueeze(1)
    # The queries that share a key head take the place of a prefill's tokens.
    q_DGRX = q_DQX.view(num_sequences, num_kv_heads, -1, head_dim)
    mask_D11L = is_real_DL[:, None, None]
    out_DGRX = F.scaled_dot_product_attention(q_DGRX, k_DGLX, v_DGLX, attn_mask=mask_D11L)
    out_DQX = out_DGRX.reshape(num_sequences, num_heads, head_dim)
    if min(lengths_D.tolist()) <= first_position:
        out_DQX.masked_fill_((lengths_D <= first_position)[:, None, None], 0)
    return out_DQX


def attend_verify(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """Outputs [T, Q, X] of a few queries a sequence over its tokens, already stored.

    Queries are stored one draft round after another: round j has the j-th query of the first
    `round_sizes[j]` sequences, at most as many as in the previous round. Query j of a sequence sees
    its first `lengths + j` tokens. If `lengths` is zero there is no sequence: outputs are zeros.
    A sequence's keys and values are gathered once for all its queries.
    """
    num_heads, head_dim = q_TQX.shape[1:]
    num_kv_heads, num_rounds = pages_Z2GOX.shape[2], len(round_sizes)
    if round_sizes[0] == 1:
        # A single sequence: its queries are like the last tokens of a prefill.
        length = int(lengths_D) + num_rounds - 1
        if length < num_rounds:
            return torch.zeros_like(q_TQX)
        return _attend_prefill(q_TQX, *_keys_and_values(pages_Z2GOX, page_table_DP[0], length))
    index_J = torch.arange(num_rounds, device=q_TQX.device)
    sizes_J = torch.tensor(round_sizes, device=q_TQX.device)
    index_D1 = torch.arange(len(lengths_D), device=q_TQX.device).unsqueeze(1)
    num_queries_D = (index_D1 < sizes_J).sum(1)
    # A missing query sees what the sequence's last one sees; its output is dropped.
    visible_DJ = lengths_D.unsqueeze(1) + index_J.minimum(num_queries_D.unsqueeze(1) - 1)
    k_DGLX, v_DGLX = _of_sequences(pages_Z2GOX, page_table_DP, visible_DJ[:, -1])
    index_L = torch.arange(k_DGLX.shape[2], device=q_TQX.device)
    q_DJQX = q_TQX.new_zeros(len(lengths_D), num_rounds, num_heads, head_dim)
    for j, q_EQX in enumerate(torch.split(q_TQX, list(round_sizes))):
        q_DJQX[: len(q_EQX), j] = q_EQX
    # All queries that share a key head take the place of a prefill's tokens.
    q_DJGRX = q_DJQX.view(*q_DJQX.shape[:2], num_kv_heads, -1, head_dim)
    q_DGJRX = q_DJGRX.transpose(1, 2)
    mask_DJL = index_L < visible_DJ.unsqueeze(-1)
    mask_DYL = mask_DJL.repeat_interleave(num_heads // num_kv_heads, dim=1)
    out_DGYX = F.scaled_dot_product_attention(
        q_DGJRX.flatten(2, 3), k_DGLX, v_DGLX, attn_mask=mask_DYL.unsqueeze(1)
    )
    out_DGYX = out_DGYX.masked_fill_((lengths_D <= 0)[:, None, None, None], 0)
    out_JDQX = out_DGYX.reshape(q_DGJRX.shape).permute(2, 0, 1, 3, 4).flatten(2, 3)
    return torch.cat([out_JDQX[j, :size] for j, size in enumerate(round_sizes)])


def attend_prefill(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    cu_tokens_N1: Tensor,
    starts_N: Tensor,
    page_table_NP: Tensor,
) -> Tensor:
    """Outputs [T, Q, X] of packed sequences over their prefix and themselves, both already stored.

    Sequence n is rows cu[n] to cu[n + 1], at positions from `starts[n]`.
    """
    out_TQX = torch.empty_like(q_TQX)
    bounds = cu_tokens_N1.tolist()
    for n, start in enumerate(starts_N.tolist()):
        rows = slice(bounds[n], bounds[n + 1])
        length = start + bounds[n + 1] - bounds[n]
        k_GLX, v_GLX = _keys_and_values(pages_Z2GOX, page_table_NP[n], length)
        out_TQX[rows] = _attend_prefill(q_TQX[rows], k_GLX, v_GLX)
    return out_TQX


def _attend_prefill(q_TQX: Tensor, k_GLX: Tensor, v_GLX: Tensor) -> Tensor:
    """The queries are the last T of the L positions."""
    num_tokens, length = q_TQX.shape[0], k_GLX.shape[1]
    q_QTX = q_TQX.transpose(0, 1)
    if num_tokens == 1:
        return _attend(q_QTX, k_GLX, v_GLX, None).transpose(0, 1)
    blocks = []
    for first in range(0, num_tokens, QUERY_BLOCK_TOKENS):
        q_QBX = q_QTX[:, first : first + QUERY_BLOCK_TOKENS]
        num_queries = q_QBX.shape[1]
        visible = length - num_tokens + first + num_queries
        mask_BL = torch.ones(num_queries, visible, dtype=torch.bool, device=q_TQX.device)
        mask_BL.tril_(visible - num_queries)
        blocks.append(_attend(q_QBX, k_GLX[:, :visible], v_GLX[:, :visible], mask_BL))
    return (blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)).transpose(0, 1)


def _attend(q_QBX: Tensor, k_GLX: Tensor, v_GLX: Tensor, mask_BL: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        q_QBX[None], k_GLX[None], v_GLX[None], attn_mask=mask_BL, enable_gqa=True
    )[0]


def _keys_and_values(
    pages_Z2GOX: Tensor, table_P: Tensor, length: int, first_position: int = 0
) -> tuple[Tensor, Tensor]:
    """Keys and values [G, L, X] of one sequence."""
    table_P = table_P[: -(-length // pages_Z2GOX.shape[3])]
    both_2GLX = pages_Z2GOX[int(table_P)] if len(table_P) == 1 else join_pages(pages_Z2GOX, table_P)
    k_GLX, v_GLX = both_2GLX[:, :, first_position:length].unbind()
    return k_GLX, v_GLX


def join_pages(pages_Z2GOX: Tensor, page_table: Tensor) -> Tensor:
    """The pages [..., P] of each sequence as one long page [..., 2, G, P · O, X]."""
    num_kv_heads = pages_Z2GOX.shape[2]
    rows_YP = _rows(page_table, range(2 * num_kv_heads), num_kv_heads)
    gathered = _gather(pages_Z2GOX, rows_YP)
    return gathered.view(*page_table.shape[:-1], 2, num_kv_heads, *gathered.shape[-2:])


def _of_sequences(
    pages_Z2GOX: Tensor, page_table_DP: Tensor, lengths_D: Tensor, first_position: int = 0
) -> tuple[Tensor, Tensor]:
    """Keys and values [D, G, L, X] of several sequences, to the end of the longest one.

    Past the end of a short sequence there are zeros, to be masked: what the page has there may
    belong to another sequence, or be NaN.
    """
    num_kv_heads, page_tokens = pages_Z2GOX.shape[2:4]
    lengths = lengths_D.tolist()
    end = max(*lengths, first_position + 1)
    starts_P = torch.arange(0, end, page_tokens, device=page_table_DP.device)
    # Pages that do not belong to the sequence are not looked up.
    is_own_DP = starts_P < lengths_D.unsqueeze(1)
    table_DP = torch.where(is_own_DP, page_table_DP[:, : len(starts_P)], page_table_DP[:, :1])
    key_rows_DGP = _rows(table_DP, range(num_kv_heads), num_kv_heads)
    # Not both at once: twice the memory more often exceeds what the allocator keeps mapped.
    both = (_gather(pages_Z2GOX, rows) for rows in (key_rows_DGP, key_rows_DGP + num_kv_heads))
    k_DGLX, v_DGLX = (x_DGLX[:, :, :end] for x_DGLX in both)
    for d, length in enumerate(lengths):
        if length < end:
            k_DGLX[d, :, max(length, 0) :] = v_DGLX[d, :, max(length, 0) :] = 0
    return k_DGLX[:, :, first_position:], v_DGLX[:, :, first_position:]


def _rows(page_table: Tensor, heads: range, num_kv_heads: int) -> Tensor:
    """Rows of these heads in pages [..., P], [..., heads, P]: keys' heads precede values' heads."""
    heads_Y1 = indexes(tuple(heads), page_table.device).unsqueeze(1)
    return torch.add(heads_Y1, page_table.unsqueeze(-2), alpha=2 * num_kv_heads)


def _gather(pages_Z2GOX: Tensor, rows: Tensor) -> Tensor:
    """The rows [..., P] of heads in P pages, joined as [..., P · O, X]."""
    gathered = pages_Z2GOX.flatten(0, 2).index_select(0, rows.flatten())
    return gathered.view(*rows.shape[:-1], -1, pages_Z2GOX.shape[4])
