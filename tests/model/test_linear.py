from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.model.linear import FEW_ROWS, Linear
from tests.kernels.closeness import assert_close, randn

LARGE, SMALL = (2056, 256), (64, 48)
"""The first is arranged for few rows."""


@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, FEW_ROWS[-1], FEW_ROWS[-1] + 1, 70])
def test_it_is_the_product_for_any_number_of_rows(num_rows: int, shape: tuple[int, int]) -> None:
    weight, x = randn(*shape, seed=1), randn(num_rows, shape[1])

    with torch.inference_mode():
        out = Linear(weight)(x)

    assert out.dtype is torch.float32
    if num_rows:
        assert_close(out, x.double() @ weight.double().t())
    else:
        assert out.shape == (0, shape[0])


def test_rows_may_lie_apart_and_the_weight_may_be_part_of_another() -> None:
    whole, wide = randn(2200, 256, seed=1), randn(5, 512)
    weight, x = whole[-LARGE[0] :], wide[:, ::2]

    assert_close(Linear(weight)(x), x.double() @ weight.double().t())


def test_a_row_is_the_same_beside_any_others() -> None:
    linear, x = Linear(randn(*LARGE, seed=1)), randn(16, LARGE[1])
    whole = linear(x)

    for num_rows in FEW_ROWS:
        assert_close(linear(x[:num_rows]), whole[:num_rows])


def test_a_weight_in_bfloat16_is_left_alone() -> None:
    weight, x = randn(*LARGE, seed=1).bfloat16(), randn(5, LARGE[1]).bfloat16()

    assert torch.equal(Linear(weight)(x), F.linear(x, weight))


def test_a_weight_is_arranged_once_and_not_before_it_is_of_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arranged: list[Tensor] = []
    reorder = torch.ops.mkldnn._reorder_linear_weight

    def counted(weight: Tensor, num_rows: int | None) -> Tensor:
        arranged.append(weight)
        return reorder(weight, num_rows)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", counted)
    linear = Linear(randn(*LARGE, seed=1))

    for num_rows in (1, 70):
        linear(randn(num_rows, LARGE[1]))
    assert not arranged
    for num_rows in (2, 3):
        linear(randn(num_rows, LARGE[1]))
    assert len(arranged) == 1
