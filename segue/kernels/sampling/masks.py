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
    for row, mask in enumerate(mask_R.tolist()):
        if mask >= 0:
            # A byte is looked up as its eight bits: few rows have a mask, but words are many.
            bytes_C = ledger.masks_MW[mask].view(torch.uint8).int()
            is_out_V = _IS_OUT_8.to(bytes_C.device).index_select(0, bytes_C).flatten()
            scores_RV[row].masked_fill_(is_out_V[: scores_RV.shape[1]], -torch.inf)
    return scores_RV
