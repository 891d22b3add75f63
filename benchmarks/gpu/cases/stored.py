"""Random weights in each way in which they are stored, and their values in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases.setup import Setup
from segue.kernels.quantized_product.reference import (
    FP8_COLUMNS,
    NVFP4_COLUMNS,
    fp8_values,
    nvfp4_values,
)

PLAIN, FP8, NVFP4 = "plain", "FP8", "NVFP4"
QUANTIZED = (FP8, NVFP4)
Weight = tuple[Tensor, ...]
"""A plain matrix, or codes and their scales."""


def weight_of(
    stored: str, setup: Setup, leading: tuple[int, ...], num_outputs: int, num_columns: int
) -> Weight:
    """Codes have no infinities and NaN; outputs are about as large as inputs."""
    size, device = num_columns**-0.5, setup.device
    if stored == PLAIN:
        return (setup.randn(*leading, num_outputs, num_columns) * size,)
    if stored == FP8:
        codes_of = partial(torch.randint, size=(*leading, num_outputs, num_columns), device=device)
        codes = codes_of(0, 120, dtype=torch.uint8) | codes_of(0, 2, dtype=torch.uint8) << 7
        num_scales = -(-num_columns // FP8_COLUMNS)
        scales = torch.rand(*leading, num_outputs, num_scales, device=device) + 0.5
        return codes.view(torch.float8_e4m3fn), scales * (size / 64)
    codes = torch.randint(
        0, 256, (*leading, num_outputs, num_columns // 2), dtype=torch.uint8, device=device
    )
    num_scales = num_columns // NVFP4_COLUMNS
    scales = (torch.rand(*leading, num_outputs, num_scales, device=device) + 0.5).to(
        torch.float8_e4m3fn
    )
    return codes, scales, torch.full((*leading, num_outputs), size / 3, device=device)


def values_of(stored: str, weight: Sequence[Tensor]) -> Tensor:
    if stored == PLAIN:
        return weight[0].double()
    convert: Callable[..., Tensor] = fp8_values if stored == FP8 else nvfp4_values
    return convert(*weight, torch.float64)


def expert_of(stored: str, weight: Sequence[Tensor], expert: int) -> Tensor:
    """The values of one expert's matrix."""
    return values_of(stored, [part[expert] for part in weight])


def num_bytes(*weights: Sequence[Tensor]) -> int:
    return sum(part.nbytes for weight in weights for part in weight)
