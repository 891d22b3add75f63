"""Products of codes by `torch.nn.functional.scaled_mm`, for which cuBLAS has kernels.

T rows, K inputs, N outputs, B groups of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import ScalingType, SwizzleType

from segue.kernels.product.reference import Epilogue, Stored, finished
from segue.kernels.quantized_product.reference import FP8_COLUMNS

_TILE_ROWS, _TILE_GROUPS = 128, 4


def multiplied(
    x: tuple[Tensor, Tensor, Tensor | None],
    stored: Stored,
    dtype: torch.dtype,
    epilogue: Epilogue,
) -> Tensor:
    """x Wᵀ, finished, of codes and scales of x, with NVFP4's input scale, and of a weight. It is
    rounded to `dtype` before NVFP4's last scales multiply it, and before it is gated."""
    codes, scales, input_scale = x
    out_TN = (_fp8 if input_scale is None else _nvfp4)(codes, scales, stored, dtype)
    return finished(
        out_TN if input_scale is None else out_TN.mul_(stored[2] * input_scale), epilogue
    )


def _fp8(codes_TK: Tensor, scales_TB: Tensor, stored: Stored, dtype: torch.dtype) -> Tensor:
    weight_NK, scales_NB = stored
    if scales_NB.shape[1] == 1 and codes_TK.shape[1] > FP8_COLUMNS:
        kind, pair = ScalingType.RowWise, (scales_TB.contiguous(), scales_NB.contiguous().t())
    else:
        # Scales of a group must be adjacent.
        kind, pair = ScalingType.BlockWise1x128, (by_group(scales_TB), by_group(scales_NB))
    return F.scaled_mm(codes_TK, weight_NK.t(), pair[0], kind, pair[1], kind, output_dtype=dtype)


def _nvfp4(codes_TL: Tensor, scales_TB: Tensor, stored: Stored, dtype: torch.dtype) -> Tensor:
    """Without the scales of all inputs and of rows of the weight."""
    weight_NL, scales_NB, _ = stored
    kind, order = ScalingType.BlockWise1x16, SwizzleType.SWIZZLE_32_4_4
    return F.scaled_mm(
        codes_TL.view(torch.float4_e2m1fn_x2),
        weight_NL.view(torch.float4_e2m1fn_x2).t(),
        swizzled(scales_TB),
        kind,
        swizzled(scales_NB),
        kind,
        swizzle_a=order,
        swizzle_b=order,
        output_dtype=dtype,
    )


def by_group(scales_RB: Tensor) -> Tensor:
    """The same scales, stored group by group."""
    return scales_RB.t().contiguous().t()


def swizzled(scales_RB: Tensor) -> Tensor:
    """Scales in the order that tensor cores read: 128 rows and 4 groups are 512 bytes, in which
    rows r, r + 32, r + 64 and r + 96 are 16 bytes. Missing rows and groups are 0."""
    num_rows, num_groups = scales_RB.shape
    bytes_RB = F.pad(
        scales_RB.view(torch.uint8), (0, -num_groups % _TILE_GROUPS, 0, -num_rows % _TILE_ROWS)
    )
    tiles = bytes_RB.view(-1, 4, 32, bytes_RB.shape[1] // _TILE_GROUPS, _TILE_GROUPS)
    return tiles.permute(0, 3, 2, 1, 4).flatten().view(scales_RB.dtype)
