"""Products with quantised weights: each weight is converted to the inputs' dtype, then multiplied.

T rows, K inputs, N outputs, B scales of a row. Converted are some rows of the weight at a time, so
that a matrix needs no room as a plain one. The product is exactly that of a plain checkpoint whose
weights are the converted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from segue.kernels.moe.reference import ExpertProduct, routed_by
from segue.kernels.product import Epilogue, product
from segue.kernels.product.epilogue import finished

FP8_COLUMNS = 128
INT8_COLUMNS = 128
INT4_COLUMNS = 32
NVFP4_COLUMNS = 16
"""Columns that a scale is for, if a row has more than one. The last may have fewer."""

CONVERTED_ELEMENTS = 1 << 21
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def fp8_product(
    x_TK: Tensor, codes_NK: Tensor, scales_NB: Tensor, epilogue: Epilogue = Epilogue.NONE
) -> Tensor:
    """x Wᵀ [T, N], finished, with a weight in e4m3 and float32 scales: B is 1, or a scale for each
    128 columns of a row."""
    out_TN = _by_rows(
        x_TK,
        lambda rows: fp8_values(codes_NK[rows], scales_NB[rows], x_TK.dtype),
        *codes_NK.shape,
    )
    return finished(out_TN, epilogue)


def int8_product(
    x_TK: Tensor, codes_NK: Tensor, scales_NB: Tensor, epilogue: Epilogue = Epilogue.NONE
) -> Tensor:
    """x Wᵀ [T, N], finished, with a weight in int8 and a float32 scale for each 128 columns of a
    row."""
    out_TN = _by_rows(
        x_TK,
        lambda rows: int8_values(codes_NK[rows], scales_NB[rows], x_TK.dtype),
        *codes_NK.shape,
    )
    return finished(out_TN, epilogue)


def int4_product(
    x_TK: Tensor, codes_NL: Tensor, scales_NB: Tensor, epilogue: Epilogue = Epilogue.NONE
) -> Tensor:
    """x Wᵀ [T, N], finished, with a weight in four bits, two's complement, two to a byte, so
    L = K / 2, and a bfloat16 scale for each 32 columns of a row."""
    out_TN = _by_rows(
        x_TK,
        lambda rows: int4_values(codes_NL[rows], scales_NB[rows], x_TK.dtype),
        len(codes_NL),
        x_TK.shape[1],
    )
    return finished(out_TN, epilogue)


def nvfp4_product(
    x_TK: Tensor,
    codes_NL: Tensor,
    scales_NB: Tensor,
    row_scales_N: Tensor,
    epilogue: Epilogue = Epilogue.NONE,
) -> Tensor:
    """x Wᵀ [T, N], finished, with a weight in e2m1, two to a byte, so L = K / 2, a scale in e4m3
    for each 16 columns of a row, and a float32 scale for each row."""
    out_TN = _by_rows(
        x_TK,
        lambda rows: nvfp4_values(codes_NL[rows], scales_NB[rows], row_scales_N[rows], x_TK.dtype),
        len(codes_NL),
        x_TK.shape[1],
    )
    return finished(out_TN, epilogue)


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Sequence[Tensor],
    down: Sequence[Tensor],
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `segue.kernels.moe.routed_experts`, with each stack of matrices as the tensors of one of
    the products here, which have a first dimension for the expert."""
    return routed_by(
        product_of_experts(gate_up, PRODUCTS),
        product_of_experts(down, PRODUCTS),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down[0])),
    )


Product = Callable[..., Tensor]


class Format(IntEnum):
    """How a weight is stored. The numbers are those of segue/kernels/native/quantized.cpp."""

    INT8 = 0
    FP8 = 1
    INT4 = 2
    NVFP4 = 3


def format_of(stored: Sequence[Tensor]) -> Format:
    """Of a weight's codes and scales, by which each format differs from the others."""
    match stored[0].dtype, len(stored):
        case (torch.int8, 2):
            return Format.INT8
        case (torch.float8_e4m3fn, 2):
            return Format.FP8
        case (torch.uint8, 2):
            return Format.INT4
        case (torch.uint8, 3):
            return Format.NVFP4
    raise ValueError(f"no format has {len(stored)} tensors with codes in {stored[0].dtype}")


def product_of_experts(
    stack: Sequence[Tensor], products: Mapping[Format, Product]
) -> ExpertProduct:
    multiply = products[format_of(stack)]
    return lambda expert, x: multiply(x, *(tensor[expert] for tensor in stack))


def int8_values(codes_NK: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] as numbers, rounded once from code times scale in float32."""
    return (codes_NK.float() * _for_columns(scales_NB, INT8_COLUMNS, codes_NK.shape[1])).to(dtype)


def int4_values(codes_NL: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] as numbers, rounded once from code times scale, which is exact in float32.
    The lower half of a byte is the first of its two."""
    low_NL, high_NL = codes_NL.view(torch.int8) << 4 >> 4, codes_NL.view(torch.int8) >> 4
    values_NK = torch.stack([low_NL, high_NL], dim=-1).flatten(1).float()
    return (values_NK * _for_columns(scales_NB, INT4_COLUMNS, values_NK.shape[1])).to(dtype)


def fp8_values(codes_NK: Tensor, scales_NB: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] as numbers, rounded once from code times scale in float32."""
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


def _by_rows(
    x_TK: Tensor, values_of: Callable[[slice], Tensor], num_outputs: int, num_inputs: int
) -> Tensor:
    step = max(CONVERTED_ELEMENTS // num_inputs, 1)
    parts = [
        product(x_TK, values_of(slice(first, first + step)))
        for first in range(0, num_outputs, step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


PRODUCTS: Mapping[Format, Product] = {
    Format.INT8: int8_product,
    Format.FP8: fp8_product,
    Format.INT4: int4_product,
    Format.NVFP4: nvfp4_product,
}
