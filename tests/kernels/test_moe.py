from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels.moe import routed_experts
from tests.kernels.closeness import assert_close, randn

HIDDEN, WIDTH = 24, 20


def one_token(
    x: Tensor, logits: Tensor, gate_up: Tensor, down: Tensor, experts_per_token: int
) -> Tensor:
    """The textbook, in float64, for one token."""
    weights, experts = logits.double().softmax(-1).topk(experts_per_token)
    outputs = []
    for expert in experts:
        gate, up = (gate_up[expert].double() @ x.double()).chunk(2)
        outputs.append(down[expert].double() @ (F.silu(gate) * up))
    return (weights / weights.sum()) @ torch.stack(outputs)


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

    out = routed_experts(x, logits, gate_up, down, experts_per_token=experts_per_token)

    rows = [
        one_token(*row, gate_up, down, experts_per_token) for row in zip(x, logits, strict=True)
    ]
    assert_close(out, torch.stack(rows))


def test_experts_that_no_token_chose_are_not_read() -> None:
    x, logits = randn(7, HIDDEN), randn(7, 8, seed=1)
    logits[:, 3] = -1e9
    gate_up, down = weights(8)
    gate_up[3], down[3] = torch.nan, torch.nan

    out = routed_experts(x, logits, gate_up, down, experts_per_token=2)

    assert out.isfinite().all()


def test_bfloat16_is_as_near_as_its_dtype_allows() -> None:
    x, logits = randn(9, HIDDEN, dtype=torch.bfloat16), randn(9, 8, seed=1, dtype=torch.bfloat16)
    gate_up, down = weights(8, torch.bfloat16)

    out = routed_experts(x, logits, gate_up, down, experts_per_token=2)

    rows = [one_token(*row, gate_up, down, 2) for row in zip(x, logits, strict=True)]
    assert out.dtype is torch.bfloat16
    assert_close(out, torch.stack(rows), torch.bfloat16)
