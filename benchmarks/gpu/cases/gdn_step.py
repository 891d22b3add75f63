"""A Gated Delta Net's decode step: all between its projections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.gdn import CHECKED_SEQUENCES, conv_inputs, new_states, slots_of
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels.gated_delta_step import StepWeights
from segue.kernels.gated_delta_step import triton as step


def gdn_step_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    for num_sequences, num_rounds in sizes.gdn_decode:
        yield partial(_step, shape, num_sequences, num_rounds, device, dtype)


def _step(
    shape: Shape, num_sequences: int, num_rounds: int, device: str, dtype: torch.dtype
) -> Case:
    """All between the projections. Its floor is that of one kernel."""
    num_tokens, num_heads = num_sequences * num_rounds, shape.num_v_heads
    make = partial(torch.randn, device=device)
    x_TC, conv_CW, conv_SCW = conv_inputs(
        shape, num_tokens, num_sequences + num_tokens, device, dtype
    )
    states = new_states(shape, num_sequences + num_tokens, device)
    gate_THV = make(num_tokens, num_heads, shape.gdn_dim, dtype=dtype)
    rate_TH, dt_TH = make(2, num_tokens, num_heads, dtype=dtype)
    weights = StepWeights(
        conv_CW=conv_CW,
        minus_a_H=-0.1 * make(num_heads).exp(),
        dt_bias_H=make(num_heads),
        norm_V=make(shape.gdn_dim),
        eps=1e-6,
    )
    sequences = exact.some_rows(num_sequences, CHECKED_SEQUENCES)
    rows = [j * num_sequences + d for d in sequences for j in range(num_rounds)]

    def expected() -> Sequence[Tensor]:
        found = [
            exact.delta_step(
                torch.cat([conv_SCW[d].mT, x_TC[d::num_sequences]]),
                gate_THV[d::num_sequences],
                rate_TH[d::num_sequences],
                dt_TH[d::num_sequences],
                weights,
                states[d],
            )
            for d in sequences
        ]
        return [torch.cat(part) for part in zip(*found, strict=True)]

    return Case(
        operator="delta step",
        size=f"{num_sequences} x {num_rounds}",
        run=partial(
            step.gated_delta_step,
            x_TC,
            gate_THV,
            rate_TH,
            dt_TH,
            weights,
            states,
            conv_SCW,
            **slots_of(num_sequences, num_tokens, device),
            round_sizes=[num_sequences] * num_rounds,
        ),
        check=Check(
            exact=expected,
            seen=lambda out: [out[rows], states[[num_sequences + row for row in rows]]],
            limit=LIMITS[dtype],
        ),
        num_bytes=x_TC.nbytes + 2 * gate_THV.nbytes + conv_SCW.nbytes + states.nbytes,
    )
