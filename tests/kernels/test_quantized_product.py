"""Products with quantised weights against float64, at sizes with a partial block."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from scripts.quantize import _quantized
from segue.kernels.quantized_product import fp8_product, nvfp4_product
from segue.model.weights.quantization import parse
from tests.kernels.closeness import assert_close
from tests.model.dequantized import plain_weight

SECTIONS: dict[str, dict[str, object]] = {
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "fp8, one scale": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
}
SHAPES = [(5, 16), (300, 272), (128, 1024), (1030, 2304)]
"""The last is converted in two parts."""


@functools.cache
def stored(section: str, num_rows: int, num_columns: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    weight = torch.randn(num_rows, num_columns, generator=generator)
    # Blocks of different size, so that a scale of the wrong block shows.
    weight *= torch.linspace(0.1, 3, num_columns) * torch.linspace(1, 5, num_rows)[:, None]
    return dict(_quantized("lm_head.up_proj.weight", weight, parse(SECTIONS[section])))


def operator_of(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    name = "lm_head.up_proj.weight"
    codes = tensors[name]
    rows = len(codes)
    if codes.dtype is torch.uint8:
        return nvfp4_product(
            x, codes, tensors[f"{name}_scale"], tensors[f"{name}_scale_2"].expand(rows)
        )
    if (one := tensors.get(f"{name}_scale")) is not None:
        return fp8_product(x, codes, one.expand(rows, 1))
    return fp8_product(x, codes, tensors[f"{name}_scale_inv"].repeat_interleave(128, 0)[:rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, 40])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("section", SECTIONS)
def test_against_float64(
    section: str, shape: tuple[int, int], num_rows: int, dtype: torch.dtype
) -> None:
    tensors = stored(section, *shape)
    weight = plain_weight("lm_head.up_proj.weight", tensors)
    x = torch.randn(num_rows, shape[1]).to(dtype)

    out = operator_of(tensors, x)

    # In bfloat16 the weight is rounded, as a plain checkpoint's is.
    assert_close(out, x.double() @ weight.to(dtype).double().t(), dtype)


def test_the_quantiser_is_as_exact_as_its_format() -> None:
    for section, limit in (("fp8", 0.04), ("fp8, one scale", 0.04), ("nvfp4", 0.12)):
        name, weight = "lm_head.up_proj.weight", torch.randn(256, 512)
        tensors = dict(_quantized(name, weight, parse(SECTIONS[section])))
        error = (plain_weight(name, tensors) - weight).pow(2).mean().sqrt()
        assert 0 < error < limit, section
