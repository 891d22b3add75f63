"""Masks of rows in plain PyTorch: the tokens that a row may get, a bit each."""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.sampling.rows import Ledger

_IS_OUT_8 = (torch.arange(256)[:, None] >> torch.arange(8)) & 1 == 0
"""For each byte of a mask, whether each of its eight tokens is left out."""


def masked(logits_RV: Tensor, mask_R: Tensor, ledger: Ledger) -> Tensor:
    """A copy, -inf for tokens that a row's mask lacks."""
    assert ledger.masks_MW is not None
    scores_RV = logits_RV.clone()
    which = (mask_R >= 0).nonzero()[:, 0]
    masks_NW = ledger.masks_MW[mask_R[which]]
    scores_RV[which] = allowed(logits_RV[which], masks_NW)
    return scores_RV


def allowed(logits_RV: Tensor, masks_RW: Tensor) -> Tensor:
    """Every row has a mask."""
    bytes_C = masks_RW.view(torch.uint8).flatten().int()
    is_out_C8 = _IS_OUT_8.to(bytes_C.device).index_select(0, bytes_C)
    is_out_RV = is_out_C8.view(len(masks_RW), 32 * masks_RW.shape[1])
    return logits_RV.masked_fill(is_out_RV[:, : logits_RV.shape[1]], -torch.inf)
