"""A chunk's triangular system, where its products are in tf32 and keys are nearly parallel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from benchmarks.gpu.cases import exact
from segue.kernels.gated_delta_rule import triton_prefill
from tests.kernels.closeness import cumulative, ints, randn
from tests.kernels.device import DEVICE, DTYPES

NUM_TOKENS, DIM = 128, 128


@pytest.fixture(autouse=True)
def _tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies in float32 whatever is asked for. Tensor cores read the upper 19
    bits of an operand in tf32, and so do interpreted products here."""
    multiply = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, most: Any) -> Any:
        if str(precision).endswith("TF32"):
            a, b = (_cut(x) for x in (a, b))
        return multiply(self, a, b, d, precision, most)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def _cut(x: Any) -> Any:
    data = (x.data.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return interpreter.TensorHandle(data, x.dtype)


def hard_inputs(dtype: torch.dtype, spread: float, rate: float) -> list[Tensor]:
    """Keys that differ by `spread` of their length; states that forget almost nothing."""
    q, k, v = (randn(NUM_TOKENS, 1, DIM, seed=seed) for seed in range(3))
    keys = (k[:1] + spread * k).to(dtype)
    log_decay = torch.full((NUM_TOKENS, 1), -1e-3)
    return [q.to(dtype), keys, v.to(dtype), log_decay, torch.full_like(log_decay, rate)]


@pytest.mark.parametrize(
    ("spread", "rate", "limit"),
    [
        (1.0, 0.5, 1e-3),
        # The rounding of operands to the inputs' dtype is most of it: see docs/kernels.md.
        (0.1, 0.999, 1e-2),
        (0.0, 1.0, 4e-2),
    ],
)
def test_nearly_parallel_keys_are_solved_for(spread: float, rate: float, limit: float) -> None:
    dtype = DTYPES[1]
    scale = 8 if dtype is torch.bfloat16 else 1
    inputs = hard_inputs(dtype, spread, rate)
    state = torch.zeros(2, 1, DIM, DIM)
    expected, states = exact.delta_rule(inputs, state[0])
    state = state.to(DEVICE)

    out = triton_prefill.gated_delta_rule_prefill(
        *(x.to(DEVICE) for x in inputs),
        state,
        cu_tokens_M1=cumulative([NUM_TOKENS]).to(DEVICE),
        slots_out_M=ints(1).to(DEVICE),
        cu_segments_N1=cumulative([1]).to(DEVICE),
        slots_in_N=ints(0).to(DEVICE),
    )

    for seen, wanted in ((out, expected), (state[1], states[-1])):
        error = (seen.cpu().double() - wanted).square().mean().sqrt()
        error /= wanted.square().mean().sqrt()
        assert error <= limit * scale, f"relative error {error:.1e}"
