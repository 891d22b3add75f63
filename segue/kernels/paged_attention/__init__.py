"""Causal attention over pages, to prefill, decode or verify. `attention_input` stores the keys and
values.

T packed tokens, N sequences of a prefill, D sequences of a decode, Z pages of the pool, P pages of
the longest sequence, O tokens of a page, Q query heads, G key/value heads, X head dimension.
`pages` [Z, 2, G, O, X] has the keys, then the values, of O consecutive tokens, head by head.
Indices are int64. A row of a page table has the pages of one sequence in order, then any ids: they
are not followed, except the first of a row.

On a GPU, queries and pages must be contiguous and of one dtype, and X a power of two from 16 to
256; otherwise ValueError. Nothing waits for the device, so all of it can be captured in a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.paged_attention import reference

__all__ = ["attend_decode", "attend_prefill", "attend_verify", "join_pages"]


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
    if dispatch.takes_kernels(q_TQX):
        from segue.kernels.paged_attention import triton_prefill

        attend = triton_prefill.attend_prefill
    else:
        attend = reference.attend_prefill
    return attend(
        q_TQX,
        pages_Z2GOX,
        cu_tokens_N1=cu_tokens_N1,
        starts_N=starts_N,
        page_table_NP=page_table_NP,
    )


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
    At most 8 rounds on a GPU.
    """
    if dispatch.takes_kernels(q_TQX):
        from segue.kernels.paged_attention import triton_decode

        return triton_decode.attend_verify(
            q_TQX,
            pages_Z2GOX,
            page_table_DP=page_table_DP,
            lengths_D=lengths_D,
            round_sizes=round_sizes,
        )
    return reference.attend_verify(
        q_TQX,
        pages_Z2GOX,
        page_table_DP=page_table_DP,
        lengths_D=lengths_D,
        round_sizes=round_sizes,
    )


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
    if dispatch.takes_kernels(q_DQX):
        from segue.kernels.paged_attention import triton_decode

        attend = triton_decode.attend_decode
    else:
        attend = reference.attend_decode
    return attend(
        q_DQX,
        pages_Z2GOX,
        page_table_DP=page_table_DP,
        lengths_D=lengths_D,
        first_position=first_position,
    )


def join_pages(pages_Z2GOX: Tensor, page_table_DP: Tensor) -> Tensor:
    """A copy of each sequence's pages as one long page: [D, 2, G, P O, X]. All ids of a row are
    followed."""
    return reference.join_pages(pages_Z2GOX, page_table_DP)
