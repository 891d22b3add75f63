"""The kernels of quantised products against their reference, at sizes with partial blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels.product import Epilogue
from segue.kernels.product import triton as product_triton
from segue.kernels.quantized_product import reference, triton
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES

FORMATS = ["fp8", "fp8, one scale", "nvfp4"]


def weight(stored: str, *shape: int) -> list[Tensor]:
    """All codes but those that are not numbers, and scales of different sizes."""
    *rows, columns = shape
    generator = torch.Generator().manual_seed(sum(shape))
    codes = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    if stored == "nvfp4":
        codes = codes[..., : columns // 2].contiguous()
        scales = (torch.rand(*rows, columns // 16, generator=generator) + 0.1).to(
            torch.float8_e4m3fn
        )
        row_scales = torch.rand(*rows, generator=generator) + 0.5
        return [codes, scales, row_scales / columns**0.5]
    codes[codes % 128 == 127] = 0
    num_scales = 1 if "one" in stored else -(-columns // 128)
    scales_f = torch.rand(*rows, num_scales, generator=generator) + 0.1
    return [codes.view(torch.float8_e4m3fn), scales_f / (100 * columns**0.5)]


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(DEVICE) for tensor in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_rows", "num_outputs", "num_columns"), [(1, 40, 272), (17, 33, 128), (3, 32, 48)]
)
@pytest.mark.parametrize("stored", FORMATS)
def test_a_product(
    stored: str, num_rows: int, num_outputs: int, num_columns: int, dtype: torch.dtype
) -> None:
    parts = weight(stored, num_outputs, num_columns)
    x = randn(num_rows, num_columns, dtype=dtype)

    out = triton.quantized_product(x.to(DEVICE), on_device(*parts)).cpu()

    assert out.dtype is dtype
    assert_close(out, reference.quantized_product(x.float(), parts), dtype)


@pytest.mark.parametrize("epilogue", [Epilogue.SILU_GATE, Epilogue.FLOAT32])
@pytest.mark.parametrize("stored", ["fp8", "nvfp4"])
def test_a_finished_product(stored: str, epilogue: Epilogue) -> None:
    parts, x = weight(stored, 38, 144), randn(3, 144, dtype=torch.float16)

    out = triton.quantized_product(x.to(DEVICE), on_device(*parts), epilogue).cpu()

    assert out.dtype is (torch.float32 if epilogue is Epilogue.FLOAT32 else torch.float16)
    assert_close(out, reference.quantized_product(x.float(), parts, epilogue), out.dtype)


@pytest.mark.parametrize("stored", ["fp8", "nvfp4"])
def test_a_row_has_the_same_bits_beside_any_others(stored: str) -> None:
    parts, x = on_device(*weight(stored, 20, 272)), randn(triton.MOST_ROWS, 272).to(DEVICE)

    whole = triton.quantized_product(x, parts)

    for first, count in ((0, 1), (31, 1), (3, 4), (60, 17)):
        some = triton.quantized_product(x[first : first + count], parts)
        assert torch.equal(some, whole[first : first + count])


def test_no_rows() -> None:
    x = torch.empty(0, 128, device=DEVICE)

    assert triton.quantized_product(x, on_device(*weight("fp8", 20, 128))).shape == (0, 20)


@pytest.mark.parametrize("num_rows", [triton.MOST_ROWS, triton.MOST_ROWS + 1])
def test_many_rows_convert_the_weight_first(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, x = weight("nvfp4", 8, 32), randn(num_rows, 32)
    expected = reference.quantized_product(x, parts)
    if num_rows <= triton.MOST_ROWS:
        monkeypatch.delattr(reference, "quantized_product")
    else:
        monkeypatch.delattr(product_triton, "product_kernel")

    assert_close(triton.quantized_product(x.to(DEVICE), on_device(*parts)).cpu(), expected)


@pytest.mark.parametrize("num_tokens", [1, 3, 40])
@pytest.mark.parametrize("stored", FORMATS)
def test_experts(stored: str, num_tokens: int) -> None:
    hidden, width, num_experts = 48, 32, 5
    gate_up = weight(stored, num_experts, 2 * width, hidden)
    down = weight(stored, num_experts, hidden, width)
    x, logits = randn(num_tokens, hidden), randn(num_tokens, num_experts, seed=1)

    y, shares = triton.routed_experts(
        *on_device(x, logits), on_device(*gate_up), on_device(*down), experts_per_token=2
    )

    expected_y, expected_shares = reference.routed_experts(
        x, logits, gate_up, down, experts_per_token=2
    )
    assert_close(y.cpu(), expected_y)
    assert_close(shares.cpu(), expected_shares)


def test_a_nan_in_an_expert_that_nobody_chose_changes_nothing() -> None:
    gate_up, down = weight("fp8", 5, 64, 48), weight("fp8", 5, 48, 32)
    x, logits = randn(4, 48), randn(4, 5, seed=1)
    logits[:, :2] += 100.0
    for scales in (gate_up[1], down[1]):
        scales[2:] = torch.nan

    y, _ = triton.routed_experts(
        *on_device(x, logits), on_device(*gate_up), on_device(*down), experts_per_token=2
    )

    assert y.isfinite().all()
