from __future__ import annotations

import pytest
import torch

from segue.kernels.rms_norm import reference, triton
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (2, 5, 37), (2, 1025), (0, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = randn(*shape, dtype=dtype).to(DEVICE)
    weight = randn(shape[-1], seed=1, dtype=dtype).to(DEVICE)

    normed = triton.rms_norm(x, weight, eps=1e-6)

    assert normed.dtype is dtype
    if x.numel():
        assert_close(normed, reference.rms_norm(x, weight, eps=1e-6), dtype)


def test_rows_that_do_not_lie_together_are_refused() -> None:
    x = randn(4, 8).to(DEVICE)[:, ::2]

    with pytest.raises(ValueError, match=r"contiguous rows .* got shape \(4, 4\)"):
        triton.rms_norm(x, randn(4).to(DEVICE), eps=1e-6)
