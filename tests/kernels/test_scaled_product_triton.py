"""The kernels of products with quantised inputs against their reference.

The interpreter does not know `tl.dot_scaled`, so that there NVFP4's codes and scales become numbers
before they are multiplied; addresses, masks and scales are those of the compiled kernel. On a GPU
the same tests run what it compiles to.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels import dispatch, scaled_product
from segue.kernels.product import Epilogue
from segue.kernels.quantized_product.reference import fp8_values, nvfp4_values
from segue.kernels.scaled_product import reference, triton, triton_codes
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.launches import record
from tests.kernels.test_quantized_product_triton import on_device, weight
from tests.kernels.test_scaled_product import CASES, wide

LIMIT = torch.float16
"""A rounding of codes that differs, where a number is halfway, is rare but large."""


def scale_on_device(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale.to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 48), (17, 400), (3, 128)])
def test_codes(num_rows: int, num_columns: int, dtype: torch.dtype) -> None:
    x = wide(num_rows, num_columns, dtype)
    groups, scale = -(-num_columns // 128), torch.tensor(0.002)
    for seen, expected in (
        (triton_codes.fp8_codes(x.to(DEVICE), groups), reference.fp8_codes(x, groups)),
        (
            triton_codes.fp8_codes(x.to(DEVICE), 1, scale.to(DEVICE)),
            reference.fp8_codes(x, 1, scale),
        ),
    ):
        assert_close(
            fp8_values(seen[0].cpu(), seen[1].cpu(), torch.float32),
            fp8_values(*expected, torch.float32),
            LIMIT,
        )
        assert_close(seen[1].cpu(), expected[1])
    codes, scales = triton_codes.nvfp4_codes(x.to(DEVICE), scale.to(DEVICE))
    ones = torch.ones(num_rows)
    assert_close(
        nvfp4_values(codes.cpu(), scales.cpu(), ones, torch.float32),
        nvfp4_values(*reference.nvfp4_codes(x, scale), ones, torch.float32),
        LIMIT,
    )


def test_interpreted_codes_are_the_references() -> None:
    if DEVICE == "cuda":
        pytest.skip("a GPU divides otherwise")
    x = wide(9, 400)
    for seen, expected in (
        (triton_codes.fp8_codes(x, 4), reference.fp8_codes(x, 4)),
        (
            triton_codes.nvfp4_codes(x, torch.tensor(0.002)),
            reference.nvfp4_codes(x, torch.tensor(0.002)),
        ),
    ):
        for part, right in zip(seen, expected, strict=True):
            assert torch.equal(part.view(torch.uint8), right.contiguous().view(torch.uint8))


def test_halfway_between_two_codes_is_the_even_one() -> None:
    """With a scale of 1 for the group, and beside numbers that are no halves."""
    halves = [bound for bound, _ in reference.HALFWAY]
    x = torch.tensor([[6.0, *halves, -6.0, *(-half for half in halves)], [6.0, *[0.3] * 15]])
    one = torch.tensor(1.0)

    codes, scales = triton_codes.nvfp4_codes(x.to(DEVICE), one.to(DEVICE))

    expected, ones = reference.nvfp4_codes(x, one)
    assert ones.float().unique().tolist() == [1.0]
    assert torch.equal(codes.cpu(), expected)
    assert torch.equal(scales.cpu().float(), ones.float())


@pytest.mark.parametrize("epilogue", Epilogue)
@pytest.mark.parametrize(("num_rows", "num_outputs", "num_columns"), [(3, 34, 272), (130, 132, 48)])
@pytest.mark.parametrize(("stored", "scale"), CASES)
def test_a_product(
    stored: str,
    scale: Tensor | None,
    num_rows: int,
    num_outputs: int,
    num_columns: int,
    epilogue: Epilogue,
) -> None:
    parts = weight(stored, num_outputs, num_columns)
    x = wide(num_rows, num_columns, DTYPES[1])

    out = triton.scaled_product(
        x.to(DEVICE), on_device(*parts), scale_on_device(scale), epilogue
    ).cpu()

    expected = reference.scaled_product(x.float(), parts, scale, epilogue)
    assert out.dtype is (torch.float32 if epilogue is Epilogue.FLOAT32 else DTYPES[1])
    assert_close(out, expected, DTYPES[1])


def test_each_tile_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tiles of rows, of which two at a time go through all columns."""
    monkeypatch.setattr(triton, "GROUP_ROWS", 2)
    parts, x = weight("fp8", 260, 32), randn(4 * triton.ROWS + 3, 32)

    out = triton.scaled_product(x.to(DEVICE), on_device(*parts)).cpu()

    assert_close(out, reference.scaled_product(x, parts), LIMIT)


@pytest.mark.skipif(DEVICE == "cuda", reason="launches are recorded by the interpreter")
def test_a_gpus_operators_are_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "takes_kernels", lambda x: True)
    parts, x = weight("fp8", 64, 48), randn(5, 48)
    down, logits = weight("fp8", 3, 48, 32), randn(5, 3)
    gate_up = [part[None].expand(3, *part.shape).contiguous() for part in parts]
    launched = record(monkeypatch)

    scaled_product.scaled_product(*on_device(x), on_device(*parts))
    scaled_product.routed_experts(
        *on_device(x, logits),
        on_device(*gate_up),
        on_device(*down),
        (None, None),
        experts_per_token=2,
    )

    scaled = [launch for launch in launched if "x_scales_ptr" in dict(launch.pointers)]
    names = {launch.kernel.rpartition(".")[2] for launch in launched}
    assert {"fp8_codes_kernel", "scaled_product_kernel"} <= names
    assert "experts_kernel" in {launch.kernel.rpartition(".")[2] for launch in scaled}


def test_no_rows() -> None:
    x = torch.empty(0, 128, device=DEVICE)

    assert triton.scaled_product(x, on_device(*weight("fp8", 20, 128))).shape == (0, 20)


def test_groups_that_the_weight_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"256 columns get 2 scales of their own, .* has 1"):
        triton.scaled_product(randn(3, 256), weight("fp8, one scale", 20, 256))


@pytest.mark.parametrize("first_expert", [0, 2])
@pytest.mark.parametrize(("stored", "scale"), CASES)
def test_experts(stored: str, scale: Tensor | None, first_expert: int) -> None:
    hidden, width, num_experts, num_tokens = 48, 32, 5, 40
    held = num_experts - first_expert
    gate_up, down = weight(stored, held, 2 * width, hidden), weight(stored, held, hidden, width)
    x, logits = randn(num_tokens, hidden), randn(num_tokens, num_experts, seed=1)
    scales = (scale, None if scale is None else scale / 4)

    y, shares = triton.routed_experts(
        *on_device(x, logits),
        on_device(*gate_up),
        on_device(*down),
        (scale_on_device(scales[0]), scale_on_device(scales[1])),
        experts_per_token=2,
        first_expert=first_expert,
    )

    expected_y, expected_shares = reference.routed_experts(
        x, logits, gate_up, down, scales, experts_per_token=2, first_expert=first_expert
    )
    assert_close(y.cpu(), expected_y, LIMIT)
    assert_close(shares.cpu(), expected_shares)
