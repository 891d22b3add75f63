"""Products with quantised weights: each weight is converted to the inputs' dtype, then multiplied.

T rows, K inputs, N outputs, B scales of a row. Some rows of the weight are converted at a time, so
that no whole matrix needs memory as a plain one. The product is exactly that of a plain checkpoint
with the converted weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

import torch
from torch import Tensor

from segue.kernels.moe.reference import ExpertProduct, routed_by
from segue.kernels.product import Epilogue, product
from segue.kernels.product.reference import Stored, finished

FP8_COLUMNS = 128
INT4_COLUMNS = 32
NVFP4_COLUMNS = 16
"""Columns that a scale is for, if a row has more than one. The last may have fewer."""

CONVERTED_ELEMENTS = 1 << 21
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Format(IntEnum):
    """How a weight is stored: its codes, then its scales. The numbers are those of
    segue/kernels/native/quantized.cpp."""

    INT8 = 0
    """int8 [N, K], and a float32 scale for each 128 columns of a row."""
    FP8 = 1
    """e4m3 [N, K], and float32 scales: one for a row, or one for each 128 columns of it."""
    INT4 = 2
    """Four bits, two's complement, two to a byte [N, K / 2], and a bfloat16 scale for each 32
    columns of a row."""
    NVFP4 = 3
    """e2m1, two to a byte [N, K / 2], an e4m3 scale for each 16 columns of a row, and a float32
    scale for each row."""


_FORMATS = {
    (torch.int8, 2): Format.INT8,
    (torch.float8_e4m3fn, 2): Format.FP8,
    (torch.uint8, 2): Format.INT4,
    (torch.uint8, 3): Format.NVFP4,
}


def format_of(stored: Stored) -> Format:
    """Of a weight's codes and scales, by which each format differs from the others."""
    how = _FORMATS.get((stored[0].dtype, len(stored)))
    if how is None:
        raise ValueError(f"no format has {len(stored)} tensors with codes in {stored[0].dtype}")
    return how


def quantized_product(x_TK: Tensor, stored: Stored, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """x Wᵀ [T, N], finished, with a weight in one of the formats."""
    values_of = VALUES[format_of(stored)]
    step = max(CONVERTED_ELEMENTS // x_TK.shape[1], 1)
    parts = [
        product(x_TK, values_of(*(part[first : first + step] for part in stored), x_TK.dtype))
        for first in range(0, len(stored[0]), step)
    ]
    return finished(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), epilogue)


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Stored,
    down: Stored,
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `segue.kernels.moe.routed_experts`, with each stack of matrices in one of the formats,
    whose tensors have a first dimension for the expert."""
    return routed_by(
        product_of_experts(gate_up, quantized_product),
        product_of_experts(down, quantized_product),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down[0])),
    )


def product_of_experts(
    stack: Stored, multiply: Callable[[Tensor, Stored], Tensor]
) -> ExpertProduct:
    return lambda expert, x: multiply(x, [tensor[expert] for tensor in stack])


def int4_values(codes_NL: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] as numbers, rounded once from code times scale, which is exact in float32.
    The lower half of a byte is the first of its two."""
    low_NL, high_NL = codes_NL.view(torch.int8) << 4 >> 4, codes_NL.view(torch.int8) >> 4
    values_NK = torch.stack([low_NL, high_NL], dim=-1).flatten(1).float()
    return (values_NK * _for_columns(scales_NB, INT4_COLUMNS, values_NK.shape[1])).to(dtype)


def fp8_values(codes_NK: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] as numbers, rounded once from code times scale in float32. Also of int8,
    whose scales are for as many columns."""
    return (codes_NK.float() * _for_columns(scales_NB, FP8_COLUMNS, codes_NK.shape[1])).to(dtype)


def nvfp4_values(
    codes_NL: Tensor, scales_NB: Tensor, row_scales_N: Tensor, dtype: torch.dtype
) -> Tensor:
    """The weight [N, K] as numbers: code times scale, which is exact in float32, times the row's
    scale, and then rounded. The lower half of a byte is the first of its two."""
    magnitudes = torch.tensor(_E2M1, device=codes_NL.device)
    table_16 = torch.cat([magnitudes, -magnitudes])
    halves_NL2 = torch.stack([codes_NL & 15, codes_NL >> 4], dim=-1)
    values_NK = table_16[halves_NL2.flatten(1).long()]
    scales_NK = scales_NB.float().repeat_interleave(NVFP4_COLUMNS, 1)
    return (values_NK * scales_NK * row_scales_N[:, None]).to(dtype)


def _for_columns(scales_NB: Tensor, each: int, columns: int) -> Tensor:
    """In float32, for every column, or one for all."""
    if scales_NB.shape[1] == 1:
        return scales_NB.float()
    return scales_NB.float().repeat_interleave(each, 1)[:, :columns]


VALUES: Mapping[Format, Callable[..., Tensor]] = {
    Format.INT8: fp8_values,
    Format.FP8: fp8_values,
    Format.INT4: int4_values,
    Format.NVFP4: nvfp4_values,
}
"""From codes, scales and a dtype to the weight."""
