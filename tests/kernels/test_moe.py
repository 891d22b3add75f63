from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.moe import combine_experts, routed_experts
from tests.kernels.closeness import assert_close, randn

pytestmark = pytest.mark.usefixtures("cpu_operators")

HIDDEN, WIDTH = 24, 20


def one_token(
    x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor, experts_per_token: int
) -> tuple[Tensor, Tensor]:
    """The textbook, in float64, for one token: outputs of its experts, and their weights."""
    weights, experts = logits.double().softmax(-1).topk(experts_per_token)
    outputs = []
    for expert in experts:
        gate, up = (gate_up[expert].double() @ x.double()).chunk(2)
        outputs.append(down[expert].double() @ (F.silu(gate) * up))
    return torch.stack(outputs), weights / weights.sum()


def weights(num_experts: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return (
        randn(num_experts, 2 * WIDTH, HIDDEN, seed=3, dtype=dtype),
        randn(num_experts, HIDDEN, WIDTH, seed=4, dtype=dtype),
    )


@pytest.mark.parametrize("num_tokens", [1, 2, 65])
@pytest.mark.parametrize(("num_experts", "experts_per_token"), [(8, 2), (5, 5), (3, 1)])
def test_each_token_gets_its_best_experts(
    num_tokens: int, num_experts: int, experts_per_token: int
) -> None:
    x, logits = randn(num_tokens, HIDDEN), randn(num_tokens, num_experts, seed=1)
    gate_up, down = weights(num_experts)

    y, shares = routed_experts(x, logits, gate_up, down, experts_per_token=experts_per_token)

    rows = [
        one_token(*row, gate_up, down, experts_per_token) for row in zip(x, logits, strict=True)
    ]
    assert_close(y, torch.stack([outputs for outputs, _ in rows]))
    assert_close(shares, torch.stack([expected for _, expected in rows]))


def test_experts_that_no_token_chose_are_not_read() -> None:
    x, logits = randn(7, HIDDEN), randn(7, 8, seed=1)
    logits[:, 3] = -1e9
    gate_up, down = weights(8)
    gate_up[3], down[3] = torch.nan, torch.nan

    y, _ = routed_experts(x, logits, gate_up, down, experts_per_token=2)

    assert y.isfinite().all()


def test_among_equals_the_lowest_ids_are_chosen() -> None:
    gate_up, down = weights(40)
    x = randn(2, HIDDEN)
    logits = torch.zeros(2, 40)
    logits[1, 30] = 1.0

    y, shares = routed_experts(x, logits, gate_up, down, experts_per_token=3)

    only = [torch.full((40,), -9.0).index_fill(0, torch.tensor([e]), 9.0) for e in (0, 1, 2, 30)]
    alone = [
        routed_experts(x, torch.stack([one, one]), gate_up, down, experts_per_token=1)[0]
        for one in only
    ]
    assert_close(y[0], torch.stack([alone[e][0, 0] for e in (0, 1, 2)]))
    assert_close(y[1], torch.stack([alone[e][1, 0] for e in (3, 0, 1)]))
    assert_close(shares[0], torch.full((3,), 1 / 3))


def test_a_batch_without_tokens_is_an_empty_one() -> None:
    y, shares = routed_experts(randn(0, HIDDEN), randn(0, 8), *weights(8), experts_per_token=2)

    assert y.shape == (0, 2, HIDDEN)
    assert shares.shape == (0, 2)
    assert combine_experts(y, shares, randn(0, HIDDEN), randn(0, 1)).shape == (0, HIDDEN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weighted_outputs_and_the_gated_shared_one_are_summed(dtype: torch.dtype) -> None:
    y, shares = randn(5, 3, HIDDEN, dtype=dtype), randn(5, 3, seed=1).softmax(-1)
    shared, gate = randn(5, HIDDEN, seed=2, dtype=dtype), randn(5, 1, seed=3, dtype=dtype)

    out = combine_experts(y, shares, shared, gate)

    routed = (shares.double()[:, :, None] * y.double()).sum(1)
    assert out.dtype is dtype
    assert_close(out, routed + gate.double().sigmoid() * shared.double(), dtype)


def test_bfloat16_is_as_near_as_its_dtype_allows() -> None:
    x, logits = randn(9, HIDDEN, dtype=torch.bfloat16), randn(9, 8, seed=1, dtype=torch.bfloat16)
    gate_up, down = weights(8, torch.bfloat16)

    y, _ = routed_experts(x, logits, gate_up, down, experts_per_token=2)

    rows = [one_token(*row, gate_up, down, 2)[0] for row in zip(x, logits, strict=True)]
    assert y.dtype is torch.bfloat16
    assert_close(y, torch.stack(rows), torch.bfloat16)
