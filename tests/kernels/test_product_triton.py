"""The kernel of few rows against the product in float64, at sizes with partial blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.product import Epilogue, reference, triton
from segue.kernels.product.tiling import FEW_ROWS, NARROW, WIDE, tile_of
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES


def exact(x: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """In float64."""
    out = x.double() @ weight.double().t()
    if epilogue is Epilogue.SILU_GATE:
        gate, up = out.chunk(2, dim=1)
        return F.silu(gate) * up
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", Epilogue)
@pytest.mark.parametrize(
    ("num_rows", "num_outputs", "num_columns"), [(1, 38, 272), (17, 66, 48), (FEW_ROWS, 16, 513)]
)
def test_a_product_of_few_rows(
    num_rows: int, num_outputs: int, num_columns: int, epilogue: Epilogue, dtype: torch.dtype
) -> None:
    x = randn(num_rows, num_columns, dtype=dtype)
    weight = (randn(num_outputs, num_columns, seed=1) / num_columns**0.5).to(dtype)

    out = triton.product(x.to(DEVICE), weight.to(DEVICE), epilogue).cpu()

    out_dtype = torch.float32 if epilogue is Epilogue.FLOAT32 else dtype
    assert out.dtype is out_dtype
    assert_close(out, exact(x, weight, epilogue), out_dtype)


def test_wide_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (tile_of(8191), tile_of(8192)) == (NARROW, WIDE)
    monkeypatch.setattr(triton, "tile_of", lambda num_outputs: WIDE)
    x, weight = randn(3, 300), randn(70, 300, seed=1)

    for epilogue in Epilogue:
        out = triton.product(x.to(DEVICE), weight.to(DEVICE), epilogue).cpu()

        assert_close(out, exact(x, weight, epilogue))


def test_more_rows_are_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = randn(FEW_ROWS + 1, 48), randn(64, 48, seed=1)
    monkeypatch.delattr(triton, "product_kernel")

    for epilogue in Epilogue:
        out = triton.product(x.to(DEVICE), weight.to(DEVICE), epilogue).cpu()

        assert torch.equal(out, reference.product(x, weight, epilogue))


def test_rows_may_lie_apart_and_there_may_be_none() -> None:
    whole, weight = randn(4, 96), randn(20, 48, seed=1)
    x = whole[:, ::2]

    out = triton.product(x.to(DEVICE), weight.to(DEVICE)).cpu()

    assert_close(out, exact(x, weight, Epilogue.NONE))
    none = triton.product(x[:0].to(DEVICE), weight.to(DEVICE), Epilogue.FLOAT32)
    assert none.shape == (0, 20)


def test_a_weight_without_two_halves_is_refused() -> None:
    with pytest.raises(ValueError, match="as many gates as ups, got a weight of 21 rows"):
        triton.product(randn(1, 48), randn(21, 48), Epilogue.SILU_GATE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", Epilogue)
def test_a_row_has_the_same_bits_beside_any_others(epilogue: Epilogue, dtype: torch.dtype) -> None:
    x = randn(FEW_ROWS, 700, dtype=dtype).to(DEVICE)
    weight = randn(18, 700, seed=1, dtype=dtype).to(DEVICE)

    whole = triton.product(x, weight, epilogue)

    for first, count in ((0, 1), (31, 1), (3, 4), (7, 16), (9, 17)):
        part = triton.product(x[first : first + count], weight, epilogue)
        assert torch.equal(part, whole[first : first + count])
