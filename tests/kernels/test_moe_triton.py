from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels.moe import reference, triton
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE, DTYPES

HIDDEN, WIDTH = 40, 20
NUM_EXPERTS, EXPERTS_PER_TOKEN = 8, 2


def weights(
    num_experts: int = NUM_EXPERTS, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Scaled so that outputs are about as large as inputs."""
    gate_up = randn(num_experts, 2 * WIDTH, HIDDEN, seed=3) / HIDDEN**0.5
    down = randn(num_experts, HIDDEN, WIDTH, seed=4) / WIDTH**0.5
    return gate_up.to(dtype), down.to(dtype)


def routed(
    x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor, experts_per_token: int
) -> tuple[Tensor, Tensor]:
    """The kernels' answer, on the CPU."""
    on_device = [tensor.to(DEVICE) for tensor in (x, logits, gate_up, down)]
    y, shares = triton.routed_experts(*on_device, experts_per_token=experts_per_token)
    return y.cpu(), shares.cpu()


def assert_like_the_reference(
    x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor, experts_per_token: int
) -> None:
    y, shares = routed(x, logits, gate_up, down, experts_per_token)

    # In float32, as the kernels sum; the reference would round gate and up, too.
    expected_y, expected_shares = reference.routed_experts(
        x.float(), logits, gate_up.float(), down.float(), experts_per_token=experts_per_token
    )
    assert y.dtype is x.dtype
    assert_close(y, expected_y, x.dtype)
    assert_close(shares, expected_shares)


# One program routes up to 32 tokens; tiles have 16 rows up to 24 tokens here, then 64, and from 193
# on 128.
@pytest.mark.parametrize("num_tokens", [1, 3, 24, 32, 33, 64, 65, 200])
@pytest.mark.parametrize("dtype", [pytest.param(DTYPES[0], marks=pytest.mark.slow), DTYPES[1]])
def test_the_kernels_equal_the_reference(num_tokens: int, dtype: torch.dtype) -> None:
    x = randn(num_tokens, HIDDEN, dtype=dtype)
    logits = randn(num_tokens, NUM_EXPERTS, seed=1, dtype=dtype)

    assert_like_the_reference(x, logits, *weights(dtype=dtype), EXPERTS_PER_TOKEN)


@pytest.mark.parametrize(("num_experts", "experts_per_token"), [(5, 5), (3, 1), (11, 3), (1, 1)])
def test_any_number_of_experts_will_do(num_experts: int, experts_per_token: int) -> None:
    x, logits = randn(70, HIDDEN), randn(70, num_experts, seed=1)

    assert_like_the_reference(x, logits, *weights(num_experts), experts_per_token)


@pytest.mark.parametrize("num_tokens", [20, 90])
def test_all_tokens_may_choose_the_same_experts(num_tokens: int) -> None:
    x, logits = randn(num_tokens, HIDDEN), randn(num_tokens, NUM_EXPERTS, seed=1)
    logits[:, [2, 5]] += 100.0
    gate_up, down = weights()
    others = [0, 1, 3, 4, 6, 7]
    gate_up[others], down[others] = torch.nan, torch.nan

    assert_like_the_reference(x, logits, gate_up, down, EXPERTS_PER_TOKEN)


@pytest.mark.parametrize("num_tokens", [7, 70])
def test_among_equals_the_lowest_ids_are_chosen(num_tokens: int) -> None:
    values = torch.tensor([-1.0, -0.0, 0.0, 1.0])
    generator = torch.Generator().manual_seed(5)
    logits = values[torch.randint(4, (num_tokens, NUM_EXPERTS), generator=generator)]

    assert_like_the_reference(randn(num_tokens, HIDDEN), logits, *weights(), EXPERTS_PER_TOKEN)


@pytest.mark.parametrize("num_tokens", [2, 80])
def test_no_logit_leads_out_of_the_experts(num_tokens: int) -> None:
    x, logits = randn(num_tokens, HIDDEN), randn(num_tokens, 6, seed=1)
    logits[1] = torch.nan
    logits[0] = -torch.inf
    logits[0, 4] = 2.0
    gate_up, down = weights(6)

    y, shares = routed(x, logits, gate_up, down, 4)

    expected_y, expected_shares = reference.routed_experts(
        x, logits, gate_up, down, experts_per_token=4
    )
    others = [token for token in range(num_tokens) if token != 1]
    assert_close(y[others], expected_y[others])
    assert_close(shares[others], expected_shares[others])
    assert y[1].isfinite().all()


@pytest.mark.parametrize("sizes", [(5, 18), (40, 30)])
def test_a_token_does_not_see_what_else_is_in_the_batch(sizes: tuple[int, int]) -> None:
    x, logits = randn(sum(sizes), HIDDEN), randn(sum(sizes), NUM_EXPERTS, seed=1)
    gate_up, down = weights()

    packed = routed(x, logits, gate_up, down, EXPERTS_PER_TOKEN)

    alone = [
        routed(*part, gate_up, down, EXPERTS_PER_TOKEN)
        for part in zip(x.split(sizes), logits.split(sizes), strict=True)
    ]
    for whole, parts in zip(packed, zip(*alone, strict=True), strict=True):
        assert_close(whole, torch.cat(parts))


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [24, 190])
def test_tiles_of_one_size_give_equal_bits(num_tokens: int) -> None:
    x = randn(num_tokens, HIDDEN, dtype=torch.bfloat16)
    logits = randn(num_tokens, NUM_EXPERTS, seed=1)
    gate_up, down = weights(dtype=torch.bfloat16)
    backwards = torch.arange(num_tokens - 1, -1, -1)

    y, shares = routed(x, logits, gate_up, down, EXPERTS_PER_TOKEN)
    again = routed(x[backwards], logits[backwards], gate_up, down, EXPERTS_PER_TOKEN)

    assert torch.equal(y[backwards], again[0])
    assert torch.equal(shares[backwards], again[1])


def test_a_batch_without_tokens_is_an_empty_one() -> None:
    y, shares = routed(randn(0, HIDDEN), randn(0, NUM_EXPERTS), *weights(), EXPERTS_PER_TOKEN)
    out = triton.combine_experts(
        *(t.to(DEVICE) for t in (y, shares, randn(0, HIDDEN), randn(0, 1)))
    )

    assert y.shape == (0, EXPERTS_PER_TOKEN, HIDDEN)
    assert shares.shape == (0, EXPERTS_PER_TOKEN)
    assert out.shape == (0, HIDDEN)


@pytest.mark.parametrize(("num_tokens", "hidden"), [(1, 64), (3, 1030)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_equals_the_reference(num_tokens: int, hidden: int, dtype: torch.dtype) -> None:
    y, shares = randn(num_tokens, 3, hidden, dtype=dtype), randn(num_tokens, 3, seed=1).softmax(-1)
    shared = randn(num_tokens, hidden, seed=2, dtype=dtype)
    gate = randn(num_tokens, 1, seed=3, dtype=dtype)

    out = triton.combine_experts(*(t.to(DEVICE) for t in (y, shares, shared, gate)))

    assert out.dtype is dtype
    assert_close(out.cpu(), reference.combine_experts(y, shares, shared, gate), dtype)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    x, logits, (gate_up, down) = randn(4, HIDDEN), randn(4, NUM_EXPERTS), weights()

    with pytest.raises(ValueError, match="contiguous"):
        routed(x, logits, gate_up.mT.contiguous().mT, down, 2)
    with pytest.raises(ValueError, match="dtype of x"):
        routed(x, logits, gate_up.half(), down, 2)
    with pytest.raises(ValueError, match=r"gate_up \[E, 2 I, H\]"):
        routed(x, logits[:, :7].contiguous(), gate_up, down, 2)
    with pytest.raises(ValueError, match="1 to 8 per token, got 8 and 9"):
        routed(x, logits, gate_up, down, 9)


@pytest.mark.parametrize("num_tokens", [3, 70])
@pytest.mark.parametrize("held", [range(3), range(3, 8), range(7, 8)])
def test_a_rank_that_has_some_experts_computes_only_theirs(num_tokens: int, held: range) -> None:
    x, logits = randn(num_tokens, HIDDEN), randn(num_tokens, NUM_EXPERTS, seed=1)
    gate_up, down = weights()
    part = slice(held.start, held.stop)
    options = {"experts_per_token": 2, "first_expert": held.start}
    on_device = [tensor.to(DEVICE) for tensor in (x, logits, gate_up[part], down[part])]
    experts = reference.route(logits, 2)[0]
    is_held = (experts >= held.start) & (experts < held.stop)
    whole, shares = reference.routed_experts(x, logits, gate_up, down, experts_per_token=2)

    for y, own_shares in (
        triton.routed_experts(*on_device, **options),
        reference.routed_experts(x, logits, gate_up[part], down[part], **options),
    ):
        assert_close(y.cpu(), whole * is_held.unsqueeze(2))
        assert_close(own_shares.cpu(), shares)
