"""Inputs of the gated delta rule as the model has them, for the tests of its kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.closeness import randn
from tests.kernels.device import DEVICE

SLOTS = 12
HEADS = [(1, 2, 16, 32), (2, 2, 32, 16)]
"""Key heads, value heads, key and value dimension."""

Heads = tuple[int, int, int, int]


def inputs_of(
    num_tokens: int, heads: Heads, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """q, k and v as parts of one row, as the convolution leaves them; log decay and rate."""
    num_k_heads, num_v_heads, k_dim, v_dim = heads
    widths = [num_k_heads * k_dim, num_k_heads * k_dim, num_v_heads * v_dim]
    q, k, v = randn(num_tokens, sum(widths), dtype=dtype).to(DEVICE).split(widths, dim=1)
    # From barely forgetting to forgetting all but e^-20 of a state in one token.
    log_decay = -F.softplus(randn(num_tokens, num_v_heads, seed=3) * 8).to(DEVICE)
    rate = randn(num_tokens, num_v_heads, seed=4).sigmoid().to(DEVICE)
    q, k = (x.view(-1, num_k_heads, k_dim) for x in (q, k))
    return q, k, v.view(-1, num_v_heads, v_dim), log_decay, rate


def new_state(heads: Heads) -> Tensor:
    return randn(SLOTS, *heads[1:], seed=7).to(DEVICE)
