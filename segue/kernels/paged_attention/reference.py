"""Paged attention in plain PyTorch.

T packed tokens, N sequences of a prefill, D sequences of a decode, J draft rounds, Z pages of the
pool, P pages of the longest sequence, O tokens of a page, Q query heads, G key/value heads (Q / G
queries share one), X head dimension, L tokens of a sequence.

`pages` [Z, 2, G, O, X]: keys, then values, head by head, of O consecutive tokens, in the dtype of
queries; or e4m3 codes with `scales`, which become numbers of the queries' dtype without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.constants import indexes
from segue.kernels.paged_attention.e4m3 import E4M3, UNSCALED, Scales, as_bytes
from segue.kernels.scratch import scratch_memory

QUERY_BLOCK_TOKENS = 512
"""Limits the mask size for a prefill that continues a long prefix."""
GATHERED_BYTES = 4 << 20
"""The keys of as many heads are gathered at once as fit: then keys and values are still in a core's
cache when they are read."""


def attend_decode(
    q_DQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    first_position: int = 0,
    scales: Scales = UNSCALED,
) -> Tensor:
    """Outputs [D, Q, X] of one query a sequence over its first `lengths` tokens, already stored.

    Tokens before `first_position` are not seen. Zeros if none are left.
    """
    num_sequences, num_heads, head_dim = q_DQX.shape
    if num_sequences == 1:
        table_P, length = page_table_DP[0], int(lengths_D)
        return _attend_alone(
            q_DQX, pages_Z2GOX, table_P, length, scales, first_position=first_position
        )
    num_kv_heads = pages_Z2GOX.shape[2]
    lengths = lengths_D.tolist()
    end = max(*lengths, first_position + 1)
    index_L = torch.arange(first_position, end, device=q_DQX.device)
    mask_D11L = (index_L < lengths_D.unsqueeze(1))[:, None, None]
    # The queries that share a key head take the place of a prefill's tokens.
    q_DGRX = q_DQX.view(num_sequences, num_kv_heads, -1, head_dim)
    out_DGRX = _attend_together(
        q_DGRX,
        pages_Z2GOX,
        page_table_DP,
        lengths,
        mask_D11L,
        scales,
        first_position=first_position,
    )
    out_DQX = out_DGRX.reshape(num_sequences, num_heads, head_dim)
    if min(lengths) <= first_position:
        out_DQX.masked_fill_((lengths_D <= first_position)[:, None, None], 0)
    return out_DQX


def attend_verify(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    *,
    page_table_DP: Tensor,
    lengths_D: Tensor,
    round_sizes: Sequence[int],
    scales: Scales = UNSCALED,
) -> Tensor:
    """Outputs [T, Q, X] of a few queries a sequence over its tokens, already stored.

    Queries are stored one draft round after another: round j has the j-th query of the first
    `round_sizes[j]` sequences, at most as many as in the previous round. Query j of a sequence sees
    its first `lengths + j` tokens. If `lengths` is zero there is no sequence: outputs are zeros.
    At most 8 rounds on a GPU. A sequence's keys and values are gathered once for all its queries.
    """
    num_heads, head_dim = q_TQX.shape[1:]
    num_kv_heads, num_rounds = pages_Z2GOX.shape[2], len(round_sizes)
    if round_sizes[0] == 1:
        # A single sequence: its queries are like the last tokens of a prefill.
        length = int(lengths_D) + num_rounds - 1
        if length < num_rounds:
            return torch.zeros_like(q_TQX)
        return _attend_alone(q_TQX, pages_Z2GOX, page_table_DP[0], length, scales)
    index_J = torch.arange(num_rounds, device=q_TQX.device)
    sizes_J = torch.tensor(round_sizes, device=q_TQX.device)
    index_D1 = torch.arange(len(lengths_D), device=q_TQX.device).unsqueeze(1)
    num_queries_D = (index_D1 < sizes_J).sum(1)
    # A missing query sees what the sequence's last one sees; its output is dropped.
    visible_DJ = lengths_D.unsqueeze(1) + index_J.minimum(num_queries_D.unsqueeze(1) - 1)
    lengths = visible_DJ[:, -1].tolist()
    index_L = torch.arange(max(*lengths, 1), device=q_TQX.device)
    q_DJQX = q_TQX.new_zeros(len(lengths_D), num_rounds, num_heads, head_dim)
    for j, q_EQX in enumerate(torch.split(q_TQX, list(round_sizes))):
        q_DJQX[: len(q_EQX), j] = q_EQX
    # All queries that share a key head take the place of a prefill's tokens.
    q_DJGRX = q_DJQX.view(*q_DJQX.shape[:2], num_kv_heads, -1, head_dim)
    q_DGJRX = q_DJGRX.transpose(1, 2)
    mask_DJL = index_L < visible_DJ.unsqueeze(-1)
    mask_DYL = mask_DJL.repeat_interleave(num_heads // num_kv_heads, dim=1)
    q_DGYX, mask_D1YL = q_DGJRX.flatten(2, 3), mask_DYL.unsqueeze(1)
    out_DGYX = _attend_together(q_DGYX, pages_Z2GOX, page_table_DP, lengths, mask_D1YL, scales)
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
    scales: Scales = UNSCALED,
) -> Tensor:
    """Outputs [T, Q, X] of packed sequences over their prefix and themselves, both already stored.

    Sequence n is rows cu[n] to cu[n + 1], at positions from `starts[n]`.
    """
    out_TQX = torch.empty_like(q_TQX)
    bounds = cu_tokens_N1.tolist()
    for n, start in enumerate(starts_N.tolist()):
        rows = slice(bounds[n], bounds[n + 1])
        length = start + bounds[n + 1] - bounds[n]
        out_TQX[rows] = _attend_alone(q_TQX[rows], pages_Z2GOX, page_table_NP[n], length, scales)
    return out_TQX


def _attend_prefill(q_TQX: Tensor, k_GLX: Tensor, v_GLX: Tensor, k_scale: float) -> Tensor:
    """The queries are the last T of the L positions."""
    num_tokens, length = q_TQX.shape[0], k_GLX.shape[1]
    q_QTX = q_TQX.transpose(0, 1)
    if num_tokens == 1:
        return _attend(q_QTX, k_GLX, v_GLX, None, k_scale).transpose(0, 1)
    blocks = []
    for first in range(0, num_tokens, QUERY_BLOCK_TOKENS):
        q_QBX = q_QTX[:, first : first + QUERY_BLOCK_TOKENS]
        num_queries = q_QBX.shape[1]
        visible = length - num_tokens + first + num_queries
        mask_BL = torch.ones(num_queries, visible, dtype=torch.bool, device=q_TQX.device)
        mask_BL.tril_(visible - num_queries)
        seen = (k_GLX[:, :visible], v_GLX[:, :visible])
        blocks.append(_attend(q_QBX, *seen, mask_BL, k_scale))
    return (blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)).transpose(0, 1)


def _attend(
    q_QBX: Tensor, k_GLX: Tensor, v_GLX: Tensor, mask_BL: Tensor | None, k_scale: float
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_QBX[None],
        k_GLX[None],
        v_GLX[None],
        attn_mask=mask_BL,
        scale=k_scale / math.sqrt(q_QBX.shape[-1]),
        enable_gqa=True,
    )[0]


def _attend_alone(
    q_TQX: Tensor,
    pages_Z2GOX: Tensor,
    table_P: Tensor,
    length: int,
    scales: Scales,
    *,
    first_position: int = 0,
) -> Tensor:
    """The queries of one sequence: its last positions up to `length`."""
    num_shared = q_TQX.shape[1] // pages_Z2GOX.shape[2]
    outs = []
    for heads in _groups_of_heads(pages_Z2GOX, length):
        k_HLX, v_HLX = _keys_and_values(pages_Z2GOX, table_P, heads, length, first_position)
        k_HLX, v_HLX = k_HLX.to(q_TQX.dtype), v_HLX.to(q_TQX.dtype)
        q_TYX = q_TQX[:, heads.start * num_shared : heads.stop * num_shared]
        outs.append(_attend_prefill(q_TYX, k_HLX, v_HLX, scales[0]))
    return _scaled(outs, scales[1])


def _attend_together(
    q_DGYX: Tensor,
    pages_Z2GOX: Tensor,
    page_table_DP: Tensor,
    lengths: Sequence[int],
    mask_D1YL: Tensor,
    scales: Scales,
    *,
    first_position: int = 0,
) -> Tensor:
    """Outputs [D, G, Y, X] of the Y queries of each sequence and key head."""
    table_DP, end = _own_pages(pages_Z2GOX, page_table_DP, lengths, first_position)
    outs = []
    for heads in _groups_of_heads(pages_Z2GOX, len(lengths) * end):
        k_DHLX, v_DHLX = _keys_and_values(pages_Z2GOX, table_DP, heads, end)
        k_DHLX, v_DHLX = k_DHLX.to(q_DGYX.dtype), v_DHLX.to(q_DGYX.dtype)
        # Past the end of a short sequence, what a page has may be another sequence's, or NaN.
        for d, length in enumerate(lengths):
            if length < end:
                k_DHLX[d, :, max(length, 0) :] = v_DHLX[d, :, max(length, 0) :] = 0
        outs.append(
            F.scaled_dot_product_attention(
                q_DGYX[:, heads.start : heads.stop],
                k_DHLX[:, :, first_position:],
                v_DHLX[:, :, first_position:],
                attn_mask=mask_D1YL,
                scale=scales[0] / math.sqrt(q_DGYX.shape[-1]),
            )
        )
    return _scaled(outs, scales[1])


def _scaled(outs: Sequence[Tensor], v_scale: float) -> Tensor:
    """The outputs of all groups of heads, times the scale of their values."""
    out = outs[0] if len(outs) == 1 else torch.cat(list(outs), dim=1)
    return out if v_scale == 1 else out * v_scale


def _own_pages(
    pages_Z2GOX: Tensor, page_table_DP: Tensor, lengths: Sequence[int], first_position: int
) -> tuple[Tensor, int]:
    """The table up to the longest sequence's end, and that end. Pages that do not belong to a
    sequence are not looked up: its first one stands for them."""
    end = max(*lengths, first_position + 1)
    device = page_table_DP.device
    starts_P = torch.arange(0, end, pages_Z2GOX.shape[3], device=device)
    is_own_DP = starts_P < torch.tensor(lengths, device=device).unsqueeze(1)
    return torch.where(is_own_DP, page_table_DP[:, : len(starts_P)], page_table_DP[:, :1]), end


def _groups_of_heads(pages_Z2GOX: Tensor, num_tokens: int) -> Sequence[range]:
    """Key heads that are gathered together, in groups of equal size."""
    num_kv_heads, _, head_dim = pages_Z2GOX.shape[2:]
    head_bytes = num_tokens * head_dim * pages_Z2GOX.element_size()
    size = num_kv_heads
    while size > 1 and (size * head_bytes > GATHERED_BYTES or num_kv_heads % size):
        size -= 1
    return [range(first, first + size) for first in range(0, num_kv_heads, size)]


def _keys_and_values(
    pages_Z2GOX: Tensor, page_table: Tensor, heads: range, length: int, first_position: int = 0
) -> tuple[Tensor, Tensor]:
    """Keys and values [..., H, L, X] of some heads, of sequences with pages [..., P]."""
    num_kv_heads, page_tokens = pages_Z2GOX.shape[2:4]
    tokens = slice(first_position, length)
    page_table = page_table[..., : -(-length // page_tokens)]
    if page_table.shape == (1,):
        k_HLX, v_HLX = pages_Z2GOX[int(page_table), :, heads.start : heads.stop, tokens].unbind()
        return k_HLX, v_HLX
    values = range(heads.start + num_kv_heads, heads.stop + num_kv_heads)
    both_YLX = _gather(pages_Z2GOX, _rows(page_table, (*heads, *values), num_kv_heads))
    num_heads = len(heads)
    return both_YLX[..., :num_heads, tokens, :], both_YLX[..., num_heads:, tokens, :]


def _rows(page_table: Tensor, heads: tuple[int, ...], num_kv_heads: int) -> Tensor:
    """Rows of these heads in pages [..., P], [..., heads, P]: keys' heads precede values' heads."""
    heads_Y1 = indexes(heads, page_table.device).unsqueeze(1)
    return torch.add(heads_Y1, page_table.unsqueeze(-2), alpha=2 * num_kv_heads)


def _gather(pages_Z2GOX: Tensor, rows: Tensor) -> Tensor:
    """The rows [..., P] of heads in P pages, joined as [..., P · O, X]. Valid until the thread's
    next call."""
    num_rows, row_shape = rows.numel(), pages_Z2GOX.shape[3:]
    stored_Z2GOX = as_bytes(pages_Z2GOX)
    out = scratch_memory((num_rows, *row_shape), stored_Z2GOX)
    gathered = torch.index_select(stored_Z2GOX.flatten(0, 2), 0, rows.flatten(), out=out)
    if pages_Z2GOX.dtype is E4M3:
        gathered = gathered.view(E4M3)
    return gathered.view(*rows.shape[:-1], -1, pages_Z2GOX.shape[4])
