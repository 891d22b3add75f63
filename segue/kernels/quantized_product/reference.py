"""Products with quantised weights: each weight is converted to the inputs' dtype, then multiplied.

T rows, K inputs, N outputs, B scales of a row. Converted are some rows of the weight at a time, so
that a matrix needs no room as a plain one. The product is exactly that of a plain checkpoint whose
weights are the converted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segue.kernels.moe.reference import ExpertProduct, routed_by
from segue.kernels.product import product

FP8_COLUMNS = 128
NVFP4_COLUMNS = 16
"""Columns that a scale is for, if a row has more than one."""

_CONVERTED_ELEMENTS = 1 << 21
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def fp8_product(x_TK: Tensor, codes_NK: Tensor, scales_NB: Tensor) -> Tensor:
    """x Wᵀ [T, N] with a weight in e4m3 and float32 scales: B is 1, or a scale for each 128 columns
    of a row."""
    return _by_rows(
        x_TK,
        lambda rows: fp8_values(codes_NK[rows], scales_NB[rows], x_TK.dtype),
        *codes_NK.shape,
    )


def nvfp4_product(
    x_TK: Tensor, codes_NL: Tensor, scales_NB: Tensor, row_scales_N: Tensor
) -> Tensor:
    """x Wᵀ [T, N] with a weight in e2m1, two to a byte, so L = K / 2, a scale in e4m3 for each 16
    columns of a row, and a float32 scale for each row."""
    return _by_rows(
        x_TK,
        lambda rows: nvfp4_values(codes_NL[rows], scales_NB[rows], row_scales_N[rows], x_TK.dtype),
        len(codes_NL),
        x_TK.shape[1],
    )


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Sequence[Tensor],
    down: Sequence[Tensor],
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `segue.kernels.moe.routed_experts`, with each stack of matrices as the tensors of
    `fp8_product` or `nvfp4_product`, which have a first dimension for the expert."""

    def product_of(stack: Sequence[Tensor]) -> ExpertProduct:
        multiply: Callable[..., Tensor] = fp8_product if len(stack) == 2 else nvfp4_product
        return lambda expert, x: multiply(x, *(tensor[expert] for tensor in stack))

    return routed_by(
        product_of(gate_up),
        product_of(down),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down[0])),
    )


def fp8_values(codes_NK: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] as numbers, rounded once from code times scale in float32."""
    columns = codes_NK.shape[1]
    if scales_NB.shape[1] > 1:
        scales_NB = scales_NB.repeat_interleave(FP8_COLUMNS, 1)[:, :columns]
    return (codes_NK.float() * scales_NB).to(dtype)


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


def _by_rows(
    x_TK: Tensor, values_of: Callable[[slice], Tensor], num_outputs: int, num_inputs: int
) -> Tensor:
    step = max(_CONVERTED_ELEMENTS // num_inputs, 1)
    parts = [
        product(x_TK, values_of(slice(first, first + step)))
        for first in range(0, num_outputs, step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
