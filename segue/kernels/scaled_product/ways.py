"""How products with quantised inputs are computed on a GPU: it depends on its tensor cores."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import quantized_product
from segue.kernels.product.reference import Epilogue, Stored
from segue.kernels.quantized_product.reference import FP8_COLUMNS, Format, format_of
from segue.kernels.scaled_product import triton

Capability = tuple[int, int]
HOPPER = (9, 0)
FIRST: Mapping[Format, Capability] = {Format.FP8: (8, 9), Format.NVFP4: (10, 0)}
"""The first GPUs whose tensor cores multiply such codes: Ada and Blackwell."""


class ScaledPath(StrEnum):
    LIBRARY = "torch"
    """`torch.nn.functional.scaled_mm`."""
    TRITON = "triton"
    PLAIN = "plain"
    """Inputs stay as they are: this GPU does not multiply such codes."""


def way_of(
    how: Format, capability: Capability, num_outputs: int, num_columns: int, num_scales: int
) -> ScaledPath:
    """For a weight [N, K] with `num_scales` scales for each row."""
    if capability < FIRST[how]:
        return ScaledPath.PLAIN
    if num_outputs % 16 or not hasattr(F, "scaled_mm"):
        return ScaledPath.TRITON
    if how is Format.NVFP4:
        return ScaledPath.LIBRARY if num_columns % 32 == 0 else ScaledPath.TRITON
    if num_scales == 1 and num_columns > FP8_COLUMNS:
        return (
            ScaledPath.LIBRARY
            if capability >= HOPPER and num_columns % 16 == 0
            else ScaledPath.TRITON
        )
    # cuBLAS has float32 scales of blocks on Hopper only.
    return (
        ScaledPath.LIBRARY
        if capability[0] == 9 and num_columns % FP8_COLUMNS == 0
        else ScaledPath.TRITON
    )


def way_on(x_TK: Tensor, stored: Stored) -> ScaledPath:
    """For the GPU of these inputs. Inputs on a CPU are for Triton's interpreter."""
    if not x_TK.is_cuda:
        return ScaledPath.TRITON
    capability = torch.cuda.get_device_capability(x_TK.device)
    sizes = stored[0].shape[-2], x_TK.shape[1], stored[1].shape[-1]
    way = way_of(format_of(stored), capability, *sizes)
    # Some of cuBLAS's kernels write no other dtype.
    return (
        ScaledPath.TRITON if way is ScaledPath.LIBRARY and x_TK.dtype is not torch.bfloat16 else way
    )


def scaled_product(
    x_TK: Tensor,
    stored: Stored,
    input_scale: Tensor | None = None,
    epilogue: Epilogue = Epilogue.NONE,
) -> Tensor:
    """As the reference's, or as that of `segue.kernels.quantized_product`."""
    way = way_on(x_TK, stored)
    if way is ScaledPath.PLAIN:
        return quantized_product.quantized_product(x_TK, stored, epilogue)
    if way is ScaledPath.TRITON:
        return triton.scaled_product(x_TK, stored, input_scale, epilogue)
    # Older versions of torch do not have what it imports.
    from segue.kernels.scaled_product import library

    codes = triton.quantized(x_TK, stored, input_scale)
    return library.multiplied(codes, stored, x_TK.dtype, epilogue)


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
    """As the reference's, or as that of `segue.kernels.quantized_product`."""
    if ScaledPath.PLAIN in (way_on(x_TH, gate_up), way_on(x_TH, down)):
        return quantized_product.routed_experts(
            x_TH,
            router_logits_TE,
            gate_up,
            down,
            experts_per_token=experts_per_token,
            first_expert=first_expert,
        )
    return triton.routed_experts(
        x_TH,
        router_logits_TE,
        gate_up,
        down,
        input_scales,
        experts_per_token=experts_per_token,
        first_expert=first_expert,
    )
