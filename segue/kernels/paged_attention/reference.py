"""Paged attention in plain PyTorch.

T packed tokens, N sequences, D of them in steps, J rounds of steps, Z pages of the pool, P pages of
the longest sequence, O tokens of a page, Q query heads, G key/value heads (Q / G queries share
one), X head dimension, L tokens of a sequence.

`pages` [Z, 2, O, G, X]: keys, then values, of O neighbouring tokens. As rows of one token each that
is [Z · 2 · O, G, X]: token o of page z has its key in row 2 O z + o, and its value O rows later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.constants import indexes

QUERY_BLOCK_TOKENS = 512
"""Bounds the mask of a prompt that continues a long prefix."""


def attend_steps(
    q_DQX: Tensor,
    pages_Z2OGX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
) -> Tensor:
    """Outputs [D, Q, X] of one query a sequence over its first `lengths` tokens, already stored.

    Those before `first_position` are not seen. Zeros where none are left.
    """
    num_steps, num_heads, head_dim = q_DQX.shape
    if num_steps == 1:
        length = int(lengths_D)
        k_GLX, v_GLX = _keys_and_values(pages_Z2OGX, page_table_DP[0], length, first_position)
        return _attend_prompt(q_DQX, k_GLX, v_GLX)
    num_kv_heads = pages_Z2OGX.shape[3]
    end = max(int(lengths_D.max()), first_position + 1)
    index_L = torch.arange(first_position, end, device=q_DQX.device)
    is_real_DL = index_L < lengths_D.unsqueeze(1)
    k_DGLX, v_DGLX = _of_sequences(pages_Z2OGX, page_table_DP, index_L, is_real_DL)
    # The queries that share a key head stand where a prompt's tokens would.
    q_DGRX = q_DQX.view(num_steps, num_kv_heads, -1, head_dim)
    mask_D11L = is_real_DL[:, None, None]
    out_DGRX = F.scaled_dot_product_attention(q_DGRX, k_DGLX, v_DGLX, attn_mask=mask_D11L)
    is_empty_D = lengths_D <= first_position
    out_DQX = out_DGRX.reshape(num_steps, num_heads, head_dim)
    return out_DQX.masked_fill_(is_empty_D[:, None, None], 0)


def attend_runs(
    q_TQX: Tensor,
    pages_Z2OGX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """Outputs [T, Q, X] of a few queries a sequence over its tokens, already stored.

    Queries lie round by round: round j has the j-th query of the first `round_sizes[j]` sequences,
    which are at most those of the round before. Query j of a sequence sees its first `lengths + j`
    tokens; where `lengths` is zero there is no sequence, and outputs are zeros. A sequence's keys
    and values are gathered once for all its queries.
    """
    num_heads, head_dim = q_TQX.shape[1:]
    num_kv_heads, num_rounds = pages_Z2OGX.shape[3], len(round_sizes)
    if round_sizes[0] == 1:
        # Its queries are the last of a prompt.
        length = int(lengths_D) + num_rounds - 1
        if length < num_rounds:
            return torch.zeros_like(q_TQX)
        return _attend_prompt(q_TQX, *_keys_and_values(pages_Z2OGX, page_table_DP[0], length))
    index_J = torch.arange(num_rounds, device=q_TQX.device)
    sizes_J = torch.tensor(round_sizes, device=q_TQX.device)
    index_D1 = torch.arange(len(lengths_D), device=q_TQX.device).unsqueeze(1)
    num_queries_D = (index_D1 < sizes_J).sum(1)
    # A query that a sequence does not have sees what its last one sees, and its output is dropped.
    visible_DJ = lengths_D.unsqueeze(1) + index_J.minimum(num_queries_D.unsqueeze(1) - 1)
    ends_D1 = visible_DJ[:, -1:]
    index_L = torch.arange(max(int(ends_D1.max()), 1), device=q_TQX.device)
    k_DGLX, v_DGLX = _of_sequences(pages_Z2OGX, page_table_DP, index_L, index_L < ends_D1)
    q_DJQX = q_TQX.new_zeros(len(lengths_D), num_rounds, num_heads, head_dim)
    for j, q_EQX in enumerate(torch.split(q_TQX, list(round_sizes))):
        q_DJQX[: len(q_EQX), j] = q_EQX
    # All queries that share a key head stand where a prompt's tokens would.
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


def attend_prompts(
    q_TQX: Tensor,
    pages_Z2OGX: Tensor,
    *,
    cu_tokens_N1: Tensor,
    starts_N: Tensor,
    page_table_NP: Tensor,
) -> Tensor:
    """Outputs [T, Q, X] of packed sequences over their prefix and themselves, already stored.

    Sequence n is rows cu[n] to cu[n + 1], at positions from `starts[n]`.
    """
    out_TQX = torch.empty_like(q_TQX)
    bounds = cu_tokens_N1.tolist()
    for n, start in enumerate(starts_N.tolist()):
        rows = slice(bounds[n], bounds[n + 1])
        length = start + bounds[n + 1] - bounds[n]
        k_GLX, v_GLX = _keys_and_values(pages_Z2OGX, page_table_NP[n], length)
        out_TQX[rows] = _attend_prompt(q_TQX[rows], k_GLX, v_GLX)
    return out_TQX


def _attend_prompt(q_TQX: Tensor, k_GLX: Tensor, v_GLX: Tensor) -> Tensor:
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
    pages_Z2OGX: Tensor, table_P: Tensor, length: int, first_position: int = 0
) -> tuple[Tensor, Tensor]:
    """Keys and values [G, L, X] of one sequence."""
    table_P = table_P[: -(-length // pages_Z2OGX.shape[2])]
    both_2LGX = pages_Z2OGX[int(table_P)] if len(table_P) == 1 else join_pages(pages_Z2OGX, table_P)
    k_GLX, v_GLX = both_2LGX[:, first_position:length].transpose(1, 2).unbind()
    return k_GLX, v_GLX


def join_pages(pages_Z2OGX: Tensor, page_table: Tensor) -> Tensor:
    """Pages [..., P] of a sequence each as one long page [..., 2, P · O, G, X] of its own."""
    keys_values_2 = indexes((0, 1), page_table.device)
    halves_2P = torch.add(keys_values_2.unsqueeze(1), page_table.unsqueeze(-2), alpha=2)
    gathered = pages_Z2OGX.flatten(0, 1).index_select(0, halves_2P.flatten())
    return gathered.view(*page_table.shape[:-1], 2, -1, *pages_Z2OGX.shape[3:])


def _of_sequences(
    pages_Z2OGX: Tensor, page_table_DP: Tensor, index_L: Tensor, is_real_DL: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values [D, G, L, X] of several sequences at the same positions.

    A short sequence repeats its first one where it has none, to be masked: whatever lies beyond its
    end in a page may be another sequence's, or not a number.
    """
    page_tokens = pages_Z2OGX.shape[2]
    index_DL = torch.where(is_real_DL, index_L, index_L[0])
    key_rows_DL = page_table_DP.gather(1, index_DL // page_tokens) * (2 * page_tokens)
    key_rows_DL += index_DL % page_tokens
    return _gather(pages_Z2OGX, key_rows_DL), _gather(pages_Z2OGX, key_rows_DL + page_tokens)


def _gather(pages_Z2OGX: Tensor, rows_DL: Tensor) -> Tensor:
    """Keys (or values) [D, G, L, X] at the given rows."""
    num_kv_heads, head_dim = pages_Z2OGX.shape[3:]
    rows_ZY = pages_Z2OGX.view(-1, num_kv_heads * head_dim)
    gathered = rows_ZY.index_select(0, rows_DL.flatten())
    return gathered.view(*rows_DL.shape, num_kv_heads, head_dim).transpose(1, 2)
