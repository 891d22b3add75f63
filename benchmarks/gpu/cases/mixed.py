"""Mixtures of experts for few tokens, with the shared expert and its gate inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact, quantized
from benchmarks.gpu.cases.moe import CHECKED_TOKENS, num_touched
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels.mixed_experts import MixedWeights, triton
from segue.kernels.product import Epilogue
from segue.kernels.product.tiling import FEW_ROWS
from segue.model.config import MoeConfig

_PLAIN = "plain"


def mixed_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    assert isinstance(shape.mlp, MoeConfig)
    for num_tokens in sizes.expert_tokens:
        if num_tokens <= FEW_ROWS:
            for stored in (_PLAIN, *quantized.STORED):
                yield partial(
                    _mixed, stored, shape.hidden_size, shape.mlp, num_tokens, device, dtype
                )


def _mixed(
    stored: str,
    hidden_size: int,
    config: MoeConfig,
    num_tokens: int,
    device: str,
    dtype: torch.dtype,
) -> Case:
    make = partial(torch.randn, device=device, dtype=dtype)
    num_experts, each = config.num_experts, config.experts_per_token
    width, shared_width = config.intermediate_size, config.shared_intermediate_size

    def matrices(leading: tuple[int, ...], num_outputs: int, num_columns: int) -> Sequence[Tensor]:
        if stored != _PLAIN:
            return quantized.weight_of(stored, leading, num_outputs, num_columns, device)
        return [make(*leading, num_outputs, num_columns) * num_columns**-0.5]

    def values(matrix: Sequence[Tensor]) -> Tensor:
        return (
            matrix[0].double() if stored == _PLAIN else quantized.values_of(stored, tuple(matrix))
        )

    weights = MixedWeights(
        gate_up=matrices((num_experts,), 2 * width, hidden_size),
        down=matrices((num_experts,), hidden_size, width),
        shared_gate_up=matrices((), 2 * shared_width, hidden_size),
        shared_down=matrices((), hidden_size, shared_width),
        shared_gate_1H=make(1, hidden_size) * hidden_size**-0.5,
    )
    x_TH, router_logits_TE = make(num_tokens, hidden_size), make(num_tokens, num_experts)
    chosen = num_touched(router_logits_TE, each)
    rows = list(exact.some_rows(num_tokens, CHECKED_TOKENS))

    def expected() -> Sequence[Tensor]:
        x_RH = x_TH[rows]
        y_RAH, weights_RA = exact.experts(
            x_RH,
            router_logits_TE[rows],
            lambda expert: values([part[expert] for part in weights.gate_up]),
            lambda expert: values([part[expert] for part in weights.down]),
            each,
        )
        h_RI = exact.product(x_RH, values(weights.shared_gate_up), Epilogue.SILU_GATE)
        shared_RH = exact.product(h_RI, values(weights.shared_down), Epilogue.NONE)
        gate_R1 = exact.product(x_RH, weights.shared_gate_1H.double(), Epilogue.NONE).sigmoid()
        return [(weights_RA.unsqueeze(2) * y_RAH).sum(1) + gate_R1 * shared_RH]

    routed = sum(part.nbytes for part in (*weights.gate_up, *weights.down))
    shared = sum(part.nbytes for part in (*weights.shared_gate_up, *weights.shared_down))
    return Case(
        operator="mixed experts" if stored == _PLAIN else f"mixed experts in {stored}",
        size=f"{num_tokens} x {each} of {num_experts}, {chosen} touched",
        run=partial(triton.mixed_experts, x_TH, router_logits_TE, weights, experts_per_token=each),
        check=Check(exact=expected, seen=lambda out: [out[rows]], limit=LIMITS[dtype]),
        num_bytes=chosen / num_experts * routed + shared + 2 * x_TH.nbytes,
        flops=6.0 * num_tokens * (each * width + shared_width) * hidden_size,
    )
