"""How near is near: one tolerance per dtype, for every operator."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_RELATIVE_RMS_ERROR = {
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 6e-3,
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Relative root mean square error, which a single large element cannot hide behind."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).square().mean().sqrt()
    size = expected.double().square().mean().sqrt()
    assert error <= MAX_RELATIVE_RMS_ERROR[dtype] * size, f"relative error {error / size:.1e}"


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def cumulative(lengths: list[int]) -> Tensor:
    return ints(0, *lengths).cumsum(0)
