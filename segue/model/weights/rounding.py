"""Quantises a plain matrix to codes with scales, by rounding to nearest.

Symmetric: a group's largest weight determines its scale. Four bits have eight negative steps but
seven positive ones, so the scale's sign is chosen such that the largest weight gets the eighth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.cache.allocation import on_huge_pages
from segue.model.weights.at_load import GROUPS, num_groups
from segue.model.weights.quantization import WeightFormat

_BLOCK_ELEMENTS = 1 << 21
"""Elements rounded at a time."""


def rounded(name: str, weight: Tensor, how: WeightFormat) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix [..., N, K], in INT8 or INT4 as `Format` describes them. Raises
    InvalidCheckpoint if K is odd and INT4 needs pairs."""
    *rows, columns = weight.shape
    if how is WeightFormat.INT4 and columns % 2:
        raise InvalidCheckpoint(
            f'{name} has {columns} columns, and [engine] quantization = "int4" needs an even '
            'number: use "int8"'
        )
    is_int8 = how is WeightFormat.INT8
    width, kind = (columns, torch.int8) if is_int8 else (columns // 2, torch.uint8)
    codes = on_huge_pages(torch.empty((*rows, width), dtype=kind))
    scales = torch.empty(
        (*rows, num_groups(columns, how)), dtype=torch.float32 if is_int8 else torch.bfloat16
    )
    flat = (weight.view(-1, columns), codes.view(-1, width), scales.view(-1, scales.shape[-1]))
    round_block = _int8 if is_int8 else _int4
    step = max(_BLOCK_ELEMENTS // columns, 1)
    for plain, some_codes, some_scales in zip(
        *(torch.split(part, step) for part in flat), strict=True
    ):
        round_block(_in_groups(plain.float(), GROUPS[how]), some_codes, some_scales)
    return codes, scales


def _in_groups(weight_NK: Tensor, group: int) -> Tensor:
    """[N, B, G], with zeros after the last column."""
    padded = torch.nn.functional.pad(weight_NK, (0, -weight_NK.shape[1] % group))
    return padded.view(len(weight_NK), -1, group)


def _int8(weight_NBG: Tensor, codes_NK: Tensor, scales_NB: Tensor) -> None:
    scales_NB.copy_(weight_NBG.abs().amax(-1).div_(127))
    steps = weight_NBG / scales_NB.clamp(min=_LEAST)[..., None]
    codes_NK.copy_(steps.round_().flatten(1)[:, : codes_NK.shape[1]])


def _int4(weight_NBG: Tensor, codes_NL: Tensor, scales_NB: Tensor) -> None:
    high, low = weight_NBG.amax(-1), weight_NBG.amin(-1)
    scales_NB.copy_(torch.where(high > -low, high, low).div_(-8))
    # Codes are for the rounded scale.
    scale = scales_NB.float()
    is_zero = scale.abs() < _LEAST
    steps = weight_NBG / scale.masked_fill(is_zero, 1.0)[..., None]
    codes_NK = steps.round_().clamp_(-8, 7).to(torch.int8).flatten(1) & 15
    pairs_NL2 = (
        codes_NK[:, : 2 * codes_NL.shape[1]]
        .contiguous()
        .view(torch.uint8)
        .view(len(codes_NL), -1, 2)
    )
    codes_NL.copy_(pairs_NL2[..., 0] | pairs_NL2[..., 1] << 4)


_LEAST = 1e-30
"""A group with a smaller scale is all zeros."""
