"""Products with quantised inputs by their definition, and the ways to compute them on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segue.kernels.product.reference import Epilogue
from segue.kernels.quantized_product.reference import Format, fp8_values, nvfp4_values
from segue.kernels.scaled_product import library, reference
from segue.kernels.scaled_product.ways import ScaledPath, way_of
from tests.kernels.closeness import assert_close, randn
from tests.kernels.test_quantized_product_triton import weight
from tests.model.quantized_inputs import as_fp8, as_nvfp4

INPUT_SCALE = torch.tensor(0.002)
CASES: list[tuple[str, Tensor | None]] = [
    ("fp8", None),
    ("fp8, one scale", torch.tensor(0.0123)),
    ("nvfp4", INPUT_SCALE),
]


def rounded(x: Tensor, scale: Tensor | None, stored: str) -> Tensor:
    """By other arithmetic."""
    return as_nvfp4(x, scale) if stored == "nvfp4" and scale is not None else as_fp8(x, scale)


def values_of(parts: list[Tensor]) -> Tensor:
    convert = nvfp4_values if len(parts) == 3 else fp8_values
    return convert(*parts, torch.float64)


def wide(num_rows: int, num_columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Columns of different sizes, so that a scale of the wrong group shows; zeros; large ones."""
    x = randn(num_rows, num_columns) * torch.linspace(0.05, 3, num_columns)
    x[0], x[-1, :20] = 0, 30
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_columns", [64, 400])
@pytest.mark.parametrize(("stored", "scale"), CASES)
def test_against_float64(
    stored: str, scale: Tensor | None, num_columns: int, dtype: torch.dtype
) -> None:
    parts, x = weight(stored, 130, num_columns), wide(40, num_columns, dtype)

    out = reference.scaled_product(x, parts, scale)

    assert out.dtype is dtype
    exact = reference.as_quantized(x, parts, scale)
    # Halfway between two codes, a division in float32 may decide otherwise than in float64.
    assert (exact != rounded(x.float(), scale, stored)).double().mean() < 0.002
    assert_close(out, exact.double() @ values_of(parts).t(), dtype)
    gated = reference.scaled_product(x, parts, scale, Epilogue.SILU_GATE)
    gate, up = (exact.double() @ values_of(parts).t()).chunk(2, 1)
    assert_close(gated, torch.nn.functional.silu(gate) * up, dtype)


def test_every_code_of_four_bits_is_its_own_nearest() -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(1, 2)
    ones = torch.ones(1, 64).to(torch.float8_e4m3fn)
    numbers = nvfp4_values(codes, ones, torch.ones(1), torch.float32)

    again, scales = reference.nvfp4_codes(numbers, torch.tensor(1.0))

    assert torch.equal(scales.float(), ones.float())
    assert torch.equal(nvfp4_values(again, scales, torch.ones(1), torch.float32), numbers)


def test_nvfp4_needs_the_checkpoints_scale() -> None:
    with pytest.raises(ValueError, match="only with a checkpoint's input_scale"):
        reference.scaled_product(randn(3, 32), weight("nvfp4", 8, 32))


HOPPER, BLACKWELL = (9, 0), (10, 0)


@pytest.mark.parametrize(
    ("how", "capability", "shape", "way"),
    [
        # N, K, B: gate and up of 9B in blocks of FP8, of 27B in NVFP4, of 27B's mixer with one.
        (Format.FP8, HOPPER, (24576, 4096, 32), ScaledPath.LIBRARY),
        (Format.FP8, BLACKWELL, (24576, 4096, 32), ScaledPath.TRITON),
        (Format.FP8, HOPPER, (16384, 5120, 1), ScaledPath.LIBRARY),
        (Format.FP8, BLACKWELL, (16384, 5120, 1), ScaledPath.LIBRARY),
        (Format.NVFP4, HOPPER, (34816, 5120, 320), ScaledPath.PLAIN),
        (Format.NVFP4, BLACKWELL, (34816, 5120, 320), ScaledPath.LIBRARY),
        # What cuBLAS has no kernel for, and an Ampere.
        (Format.FP8, HOPPER, (24570, 4096, 32), ScaledPath.TRITON),
        (Format.FP8, HOPPER, (64, 96, 1), ScaledPath.TRITON),
        (Format.NVFP4, BLACKWELL, (64, 48, 3), ScaledPath.TRITON),
        (Format.FP8, (8, 0), (24576, 4096, 32), ScaledPath.PLAIN),
    ],
)
def test_the_way_of_a_served_matrix(
    how: Format, capability: tuple[int, int], shape: tuple[int, int, int], way: ScaledPath
) -> None:
    assert way_of(how, capability, *shape) is way


def test_the_library_multiplies_fp8_with_a_scale_for_each_row() -> None:
    parts, x = weight("fp8, one scale", 48, 256), randn(40, 256)
    codes = reference.fp8_codes(x, 1, torch.tensor(0.01))

    out = library.multiplied((*codes, None), parts, torch.float32, Epilogue.NONE)

    assert_close(out, reference.scaled_product(x, parts, torch.tensor(0.01)))


@pytest.mark.parametrize("stored", ["fp8", "nvfp4"])
@pytest.mark.parametrize("num_rows", [129, 8192])
def test_the_library_takes_these_shapes(stored: str, num_rows: int) -> None:
    """What torch checks before it calls cuBLAS: shapes, dtypes, orders, and strides of scales."""
    outputs, inputs = 1040, 512
    with FakeTensorMode():

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype)

        def matrix(rows: int) -> list[Tensor]:
            if stored == "fp8":
                return [new(rows, inputs, dtype=torch.float8_e4m3fn), new(rows, inputs // 128)]
            scales = new(rows, inputs // 16, dtype=torch.float8_e4m3fn)
            return [new(rows, inputs // 2, dtype=torch.uint8), scales]

        x, parts, scale = matrix(num_rows), matrix(outputs), None
        if stored == "nvfp4":
            parts, scale = [*parts, new(outputs)], new()
        out = library.multiplied((x[0], x[1], scale), parts, torch.bfloat16, Epilogue.NONE)

    assert (out.shape, out.dtype) == ((num_rows, outputs), torch.bfloat16)


def test_scales_in_the_order_that_tensor_cores_read() -> None:
    scales = randn(130, 6).to(torch.float8_e4m3fn)

    swizzled = library.swizzled(scales)

    assert swizzled.numel() == 256 * 8
    for row in (0, 1, 31, 32, 127, 128, 129):
        for group in range(6):
            tile = row // 128 * 2 + group // 4
            at = 512 * tile + row % 32 * 16 + row % 128 // 32 * 4 + group % 4
            assert float(swizzled[at]) == float(scales[row, group])
    assert int((swizzled.float() != 0).sum()) == int((scales.float() != 0).sum())
