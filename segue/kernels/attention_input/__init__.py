"""The operators between an attention layer's packed projection and attention itself: norm and
rotate queries and keys, split off the output gate, write keys and values to their pages."""

from __future__ import annotations

from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.attention_input import reference

__all__ = ["attention_input", "store_keys_and_values"]


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
) -> tuple[Tensor, Tensor]:
    """Queries and output gates, each [T, Q, X]. Stores keys and values in `pages`, in place.

    `packed` [T, (2 Q + 2 G) X] has each query head's query and gate, one after the other; then all
    keys, then all values. The returned gates are a view of it. Queries and keys are normed
    (`rms_norm` with weight 1 + `norm`, over a head) and rotated by the tables of `rotary_tables`,
    in float32, and rounded once. `pages` [Z, 2, G, O, X] has the dtype of `packed`; token t goes to
    place `offsets[t]` of page `pages[t]`.
    """
    operator = reference.attention_input
    if dispatch.takes_kernels(packed_TY):
        from segue.kernels.attention_input import triton

        operator = triton.attention_input
    return operator(
        packed_TY,
        q_norm_X,
        k_norm_X,
        cos_T1R,
        sin_T1R,
        pages_Z2GOX,
        pages_T=pages_T,
        offsets_T=offsets_T,
        eps=eps,
    )


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
) -> None:
    """`attention_input` without queries: `packed` [T, 2 G X] has all keys, then all values."""
    operator = reference.store_keys_and_values
    if dispatch.takes_kernels(packed_TY):
        from segue.kernels.attention_input import triton

        operator = triton.store_keys_and_values
    operator(
        packed_TY,
        k_norm_X,
        cos_T1R,
        sin_T1R,
        pages_Z2GOX,
        pages_T=pages_T,
        offsets_T=offsets_T,
        eps=eps,
    )
