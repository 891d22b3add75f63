"""The gated delta rule on a CPU: a head's state stays in a core's cache for all of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.native.library import UnsuitableInputs, are_plain, longs, operators

_prefill = operators("delta_prefill", "ppppppp" + "pppp" + "lllllll")
_decode = operators("delta_decode", "ppppppp" + "ppp" + "lllllll")
_LANES = 16
"""Of the widest vectors; others divide it."""


def gated_delta_rule_prefill(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
    *,
    cu_tokens_M1: Tensor,
    slots_out_M: Tensor,
    cu_segments_N1: Tensor,
    slots_in_N: Tensor,
) -> Tensor:
    where = (cu_tokens_M1, slots_out_M, cu_segments_N1, slots_in_N)
    gates = (log_decay_TH, rate_TH)
    if not _fits(q_TGK, k_TGK, v_THV, gates, state_SHKV, where):
        raise UnsuitableInputs
    out_THV = torch.empty(v_THV.shape, dtype=torch.float32)
    _prefill(q_TGK.dtype)(
        q_TGK.data_ptr(),
        k_TGK.data_ptr(),
        v_THV.data_ptr(),
        log_decay_TH.data_ptr(),
        rate_TH.data_ptr(),
        state_SHKV.data_ptr(),
        out_THV.data_ptr(),
        *(indexes.data_ptr() for indexes in where),
        len(slots_in_N),
        q_TGK.shape[1],
        *state_SHKV.shape,
        q_TGK.stride(0),
    )
    return out_THV


def gated_delta_rule_decode(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    gates, slots = (log_decay_TH, rate_TH), (slots_in_D, slots_out_T)
    if not _fits(q_TGK, k_TGK, v_THV, gates, state_SHKV, slots):
        raise UnsuitableInputs
    out_THV = torch.empty(v_THV.shape, dtype=torch.float32)
    _decode(q_TGK.dtype)(
        q_TGK.data_ptr(),
        k_TGK.data_ptr(),
        v_THV.data_ptr(),
        log_decay_TH.data_ptr(),
        rate_TH.data_ptr(),
        state_SHKV.data_ptr(),
        out_THV.data_ptr(),
        slots_in_D.data_ptr(),
        slots_out_T.data_ptr(),
        longs(tuple(round_sizes)),
        len(round_sizes),
        q_TGK.shape[1],
        *state_SHKV.shape,
        q_TGK.stride(0),
    )
    return out_THV


def _fits(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    gates: tuple[Tensor, ...],
    state_SHKV: Tensor,
    indexes: tuple[Tensor, ...],
) -> bool:
    """Queries, keys and values may be columns of one tensor: rows of heads that are contiguous."""
    k_dim, v_dim = state_SHKV.shape[2:]
    inputs = (q_TGK, k_TGK, v_THV)
    # A stride that is never taken may be any.
    are_rows = len(q_TGK) == 1 or len({x.stride(0) for x in inputs}) == 1
    are_heads = all(
        x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2]) for x in inputs
    )
    return (
        k_dim % _LANES == 0
        and v_dim % _LANES == 0
        and are_rows
        and are_heads
        and are_plain(torch.float32, *gates, state_SHKV)
        and are_plain(torch.int64, *indexes)
    )
