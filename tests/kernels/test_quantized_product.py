"""Products with quantised weights against float64, at sizes with a partial block."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from scripts.quantize import _quantized
from segue.kernels.native import library
from segue.kernels.quantized_product import (
    Format,
    format_of,
    native,
    quantized_product,
)
from segue.kernels.quantized_product.reference import VALUES
from segue.model.weights.quantization import WeightFormat, parse
from segue.model.weights.rounding import rounded
from tests.kernels.closeness import assert_close, randn
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
        scales = [tensors[f"{name}_scale"], tensors[f"{name}_scale_2"].expand(rows)]
        return quantized_product(x, [codes, *scales])
    if (one := tensors.get(f"{name}_scale")) is not None:
        return quantized_product(x, [codes, one.expand(rows, 1)])
    scales = [tensors[f"{name}_scale_inv"].repeat_interleave(128, 0)[:rows]]
    return quantized_product(x, [codes, *scales])


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


AT_LOAD = [WeightFormat.INT8, WeightFormat.INT4]


def by_hand(codes: Tensor, scales: Tensor, columns: int) -> Tensor:
    """Weights in float64, one by one."""
    group = 128 if codes.dtype is torch.int8 else 32
    weight = torch.empty(len(codes), columns, dtype=torch.float64)
    for row in range(len(codes)):
        for column in range(columns):
            if codes.dtype is torch.int8:
                code = int(codes[row, column])
            else:
                nibble = int(codes[row, column // 2]) >> 4 * (column % 2) & 15
                code = nibble - 16 if nibble > 7 else nibble
            weight[row, column] = code * float(scales[row, column // group])
    return weight


@pytest.mark.parametrize("how", AT_LOAD)
def test_rounding_is_to_the_nearest_step_of_a_group(how: WeightFormat) -> None:
    weight = randn(7, 300) * torch.linspace(0.1, 3, 300)
    weight[2, :128] = 0
    codes, scales = rounded("name", weight, how)
    values = by_hand(codes, scales, 300)

    steps = scales.double().abs().repeat_interleave(128 if how is WeightFormat.INT8 else 32, 1)
    # The eighth step in one direction has none opposite, and bfloat16 rounds the scale.
    most = 0.5001 if how is WeightFormat.INT8 else 1.04
    assert ((values - weight).abs() <= most * steps[:, :300] + 1e-12).all()
    assert torch.equal(
        VALUES[format_of([codes, scales])](codes, scales, torch.float32), values.float()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, 40])
@pytest.mark.parametrize("shape", [*SHAPES, (33, 50)])
@pytest.mark.parametrize("how", AT_LOAD)
def test_weights_that_were_rounded_at_load(
    how: WeightFormat, shape: tuple[int, int], num_rows: int, dtype: torch.dtype
) -> None:
    stored = rounded("name", randn(*shape, seed=1) * torch.linspace(0.1, 3, shape[1]), how)
    x = randn(num_rows, shape[1], dtype=dtype)
    values = VALUES[format_of(stored)]

    assert_close(
        quantized_product(x, stored), x.double() @ values(*stored, dtype).double().t(), dtype
    )


def random_codes(how: Format, rows: int, columns: int) -> tuple[Tensor, ...]:
    """Every code that a weight can have."""
    generator = torch.Generator().manual_seed(rows)
    width = columns if how in (Format.INT8, Format.FP8) else columns // 2
    codes = torch.randint(0, 256, (rows, width), generator=generator, dtype=torch.uint8)
    if how is Format.INT8:
        return codes.view(torch.int8).clamp(min=-127), randn(rows, -(-columns // 128))
    if how is Format.FP8:
        codes[codes & 127 == 127] = 3
        return codes.view(torch.float8_e4m3fn), randn(rows, -(-columns // 128))
    if how is Format.INT4:
        return codes, randn(rows, -(-columns // 32), dtype=torch.bfloat16)
    scales = randn(rows, columns // 16).to(torch.float8_e4m3fn)
    return codes, scales, randn(rows, seed=3)


@pytest.mark.skipif(library.loaded() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("how", Format)
def test_cpp_reads_every_code_and_a_row_has_the_same_bits_beside_any_others(how: Format) -> None:
    stored, x = random_codes(how, 300, 1360), randn(24, 1360, dtype=torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16):
        values = VALUES[how](*stored, dtype)
        assert torch.equal(native.converted(how, dtype, 1360, *stored), values)
        whole = native.few_rows(how, x.to(dtype), *stored)
        assert_close(whole, x.double() @ values.double().t(), dtype)
        for num_rows in (1, 2, 3, 7):
            some = native.few_rows(how, x[:num_rows].to(dtype), *stored)
            assert torch.equal(some, whole[:num_rows])


def test_the_quantiser_is_as_exact_as_its_format() -> None:
    for section, limit in (("fp8", 0.04), ("fp8, one scale", 0.04), ("nvfp4", 0.12)):
        name, weight = "lm_head.up_proj.weight", torch.randn(256, 512)
        tensors = dict(_quantized(name, weight, parse(SECTIONS[section])))
        error = (plain_weight(name, tensors) - weight).pow(2).mean().sqrt()
        assert 0 < error < limit, section
