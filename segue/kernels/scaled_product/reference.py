"""Products of many rows with quantised weights, whose inputs are quantised too, in plain PyTorch.

Inputs become codes of the weight's format, with a scale for each group of columns of a row, and
what these codes stand for is multiplied in float32. Tensor cores multiply codes faster than
bfloat16, but the rounded inputs make other results than `segue.kernels.quantized_product`.

T rows, K inputs, N outputs, B groups of a row: of x and of the weight the same columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.moe.reference import ExpertProduct, routed_by
from segue.kernels.product.reference import Epilogue, Stored, finished
from segue.kernels.quantized_product import quantized_product
from segue.kernels.quantized_product.reference import (
    FP8_COLUMNS,
    NVFP4_COLUMNS,
    Format,
    format_of,
    fp8_values,
    nvfp4_values,
)

LARGEST_E4M3 = 448.0
LARGEST_E2M1 = 6.0
SMALLEST_INPUT = 1e-10
"""Groups of smaller inputs get the scale of this one: none is 0."""
SMALLEST_STEP = 1e-30
"""That NVFP4's numbers are divided by."""


def scaled_product(
    x_TK: Tensor,
    stored: Stored,
    input_scale: Tensor | None = None,
    epilogue: Epilogue = Epilogue.NONE,
) -> Tensor:
    """x Wᵀ [T, N] of quantised inputs, finished in float32, then in the dtype of x.

    `input_scale`, a float32 number: of NVFP4, by which the scales of groups are multiplied; of FP8,
    the scale of all inputs, or None to find one for each group of the weight.
    """
    out_TN = quantized_product(as_quantized(x_TK, stored, input_scale), stored)
    out = finished(out_TN, epilogue)
    return out if epilogue is Epilogue.FLOAT32 else out.to(x_TK.dtype)


def routed_experts(
    x_TH: Tensor,
    router_logits_TE: Tensor,
    gate_up: Stored,
    down: Stored,
    input_scales: tuple[Tensor | None, Tensor | None],
    *,
    experts_per_token: int,
    first_expert: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `segue.kernels.quantized_product.routed_experts`. `input_scales`: of the inputs of
    `gate_up` and of `down`, one for all experts."""
    return routed_by(
        _product_of_experts(gate_up, input_scales[0]),
        _product_of_experts(down, input_scales[1]),
        x_TH,
        router_logits_TE,
        experts_per_token=experts_per_token,
        held=range(first_expert, first_expert + len(down[0])),
    )


def _product_of_experts(stack: Stored, input_scale: Tensor | None) -> ExpertProduct:
    return lambda expert, x: scaled_product(x, [part[expert] for part in stack], input_scale)


def as_quantized(x_TK: Tensor, stored: Stored, input_scale: Tensor | None) -> Tensor:
    """The numbers, in float32, that the codes of x stand for."""
    if format_of(stored) is Format.NVFP4:
        scale = nvfp4_scale(input_scale)
        return nvfp4_values(*nvfp4_codes(x_TK, scale), scale.expand(len(x_TK)), torch.float32)
    codes_TK, scales_TB = fp8_codes(x_TK, stored[1].shape[-1], input_scale)
    return fp8_values(codes_TK, scales_TB, torch.float32)


def nvfp4_scale(input_scale: Tensor | None) -> Tensor:
    """Raises ValueError if there is none, or for a weight of another format than NVFP4 or FP8."""
    if input_scale is None:
        raise ValueError("inputs become NVFP4 only with a checkpoint's input_scale")
    return input_scale


def fp8_codes(
    x_TK: Tensor, num_scales: int, input_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes in e4m3 [T, K] and float32 scales [T, B]: a scale for each 128 columns, or for all if B
    is 1. A number is its code times its group's scale."""
    num_rows, num_columns = x_TK.shape
    width = num_columns if num_scales == 1 else FP8_COLUMNS
    x_TBC = F.pad(x_TK.float(), (0, num_scales * width - num_columns)).view(
        num_rows, num_scales, width
    )
    if input_scale is None:
        scales_TB = x_TBC.abs().amax(-1).clamp(min=SMALLEST_INPUT) / LARGEST_E4M3
    else:
        scales_TB = input_scale.expand(num_rows, num_scales)
    scaled_TBC = (x_TBC / scales_TB[:, :, None]).clamp(-LARGEST_E4M3, LARGEST_E4M3)
    return scaled_TBC.to(torch.float8_e4m3fn).flatten(1)[:, :num_columns], scales_TB


def nvfp4_codes(x_TK: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in e2m1 [T, K / 2], two to a byte, the lower half first, and e4m3 scales [T, K / 16].
    A number is its code times its group's scale times `input_scale`."""
    num_rows, num_columns = x_TK.shape
    x_TBC = x_TK.float().reshape(num_rows, num_columns // NVFP4_COLUMNS, NVFP4_COLUMNS)
    wanted_TB = x_TBC.abs().amax(-1) / (LARGEST_E2M1 * input_scale)
    scales_TB = wanted_TB.clamp(max=LARGEST_E4M3).to(torch.float8_e4m3fn)
    steps_TB = scales_TB.float() * input_scale
    # A group whose scale is rounded to 0 is 0, whatever its codes.
    codes_TK = e2m1_codes(x_TBC * (1 / steps_TB.clamp(min=SMALLEST_STEP))[:, :, None]).flatten(1)
    return codes_TK[:, ::2] | codes_TK[:, 1::2] << 4, scales_TB


def e2m1_codes(x: Tensor) -> Tensor:
    """The nearest code of four bits, of two the even one, and the largest beyond it."""
    size = x.abs()
    # Halfway between two numbers is nearest to the one with the even code.
    codes = sum(
        (size >= bound if is_even else size > bound).to(torch.uint8) for bound, is_even in HALFWAY
    )
    return codes + 8 * (x < 0).to(torch.uint8)


HALFWAY = (
    (0.25, False),
    (0.75, True),
    (1.25, False),
    (1.75, True),
    (2.5, False),
    (3.5, True),
    (5.0, False),
)
"""Between the numbers of codes 0 to 7, and whether the upper one's code is even."""
