"""Products with quantised weights in C++.

Up to `FEW_ROWS` one pass reads the codes, which become numbers in registers. For more, a block of
the weight at a time is converted, to be multiplied in the way that is fastest for plain weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.kernels.moe.reference import routed_by
from segue.kernels.native.library import operators
from segue.kernels.product import Epilogue, product
from segue.kernels.product.reference import Stored, finished
from segue.kernels.quantized_product.reference import (
    CONVERTED_ELEMENTS,
    Format,
    format_of,
    product_of_experts,
)

FEW_ROWS = 24
"""Up to here it costs less to convert the codes again for each few rows than to write numbers."""

_few = operators("few_rows_coded", "ppppplllli")
_converted = operators("converted", "ppppllli")


def quantized_product(x_TK: Tensor, stored: Stored, epilogue: Epilogue = Epilogue.NONE) -> Tensor:
    """As the reference's."""
    how = format_of(stored)
    stored = [part.contiguous() for part in stored]
    if len(x_TK) <= FEW_ROWS:
        return finished(few_rows(how, x_TK.contiguous(), *stored), epilogue)
    num_outputs, num_inputs = len(stored[0]), x_TK.shape[1]
    step = max(CONVERTED_ELEMENTS // num_inputs, 1)
    out_TN = x_TK.new_empty(len(x_TK), num_outputs)
    for first in range(0, num_outputs, step):
        rows = slice(first, min(first + step, num_outputs))
        weight_NK = converted(how, x_TK.dtype, num_inputs, *(part[rows] for part in stored))
        out_TN[:, rows] = product(x_TK, weight_NK)
    return finished(out_TN, epilogue)


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Stored,
    down: Stored,
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As the reference's."""
    return routed_by(
        product_of_experts(gate_up, quantized_product),
        product_of_experts(down, quantized_product),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down[0])),
    )


def few_rows(
    how: Format, x_TK: Tensor, codes: Tensor, scales_NB: Tensor, row_scales_N: Tensor | None = None
) -> Tensor:
    """x Wᵀ [T, N], however many rows. All contiguous."""
    out_TN = x_TK.new_empty(len(x_TK), len(codes))
    _few(x_TK.dtype)(
        x_TK.data_ptr(),
        *_pointers(codes, scales_NB, row_scales_N),
        out_TN.data_ptr(),
        len(x_TK),
        len(codes),
        x_TK.shape[1],
        scales_NB.shape[1],
        how,
    )
    return out_TN


def converted(
    how: Format,
    dtype: torch.dtype,
    num_inputs: int,
    codes: Tensor,
    scales_NB: Tensor,
    row_scales_N: Tensor | None = None,
) -> Tensor:
    """The weight [N, K] as numbers, each rounded once. All contiguous."""
    out_NK = torch.empty(len(codes), num_inputs, dtype=dtype)
    _converted(dtype)(
        *_pointers(codes, scales_NB, row_scales_N),
        out_NK.data_ptr(),
        len(codes),
        num_inputs,
        scales_NB.shape[1],
        how,
    )
    return out_NK


def _pointers(codes: Tensor, scales: Tensor, row_scales: Tensor | None) -> tuple[int, int, int]:
    return codes.data_ptr(), scales.data_ptr(), 0 if row_scales is None else row_scales.data_ptr()
