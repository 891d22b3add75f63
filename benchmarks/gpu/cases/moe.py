"""Mixtures of experts with plain weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels.moe import triton as moe
from segue.model.config import MoeConfig

CHECKED_TOKENS = 8
_COMBINED = 3
"""So many numbers of tokens for the sum, which is like any pass over memory."""


def expert_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    assert isinstance(shape.mlp, MoeConfig)
    for num_tokens in sizes.expert_tokens:
        yield partial(_experts, shape.hidden_size, shape.mlp, num_tokens, device, dtype)
    for num_tokens in sizes.tokens[:_COMBINED]:
        yield partial(_combined, shape.hidden_size, shape.mlp, num_tokens, device, dtype)


def num_touched(router_logits_TE: Tensor, experts_per_token: int) -> int:
    """Experts that any token has. Without data (on "meta"), all that may be."""
    num_tokens, num_experts = router_logits_TE.shape
    if router_logits_TE.device.type == "meta":
        return min(num_experts, num_tokens * experts_per_token)
    return len(set(router_logits_TE.topk(experts_per_token).indices.flatten().tolist()))


def _experts(
    hidden_size: int, config: MoeConfig, num_tokens: int, device: str, dtype: torch.dtype
) -> Case:
    num_experts, width, each = (
        config.num_experts,
        config.intermediate_size,
        config.experts_per_token,
    )
    make = partial(torch.randn, device=device, dtype=dtype)
    gate_up_EJH = make(num_experts, 2 * width, hidden_size) * hidden_size**-0.5
    down_EHI = make(num_experts, hidden_size, width) * width**-0.5
    x_TH = make(num_tokens, hidden_size)
    router_logits_TE = make(num_tokens, num_experts)
    chosen = num_touched(router_logits_TE, each)
    rows = list(exact.some_rows(num_tokens, CHECKED_TOKENS))

    def expected() -> Sequence[Tensor]:
        return exact.experts(
            x_TH[rows], router_logits_TE[rows], gate_up_EJH.__getitem__, down_EHI.__getitem__, each
        )

    return Case(
        operator="routed experts",
        size=f"{num_tokens} x {each} of {num_experts}, {chosen} touched",
        run=partial(
            moe.routed_experts,
            x_TH,
            router_logits_TE,
            gate_up_EJH,
            down_EHI,
            experts_per_token=each,
        ),
        check=Check(
            exact=expected, seen=lambda out: [out[0][rows], out[1][rows]], limit=LIMITS[dtype]
        ),
        num_bytes=chosen / num_experts * (gate_up_EJH.nbytes + down_EHI.nbytes)
        + x_TH.nbytes * (1 + each),
        flops=6.0 * num_tokens * each * width * hidden_size,
    )


def _combined(
    hidden_size: int, config: MoeConfig, num_tokens: int, device: str, dtype: torch.dtype
) -> Case:
    make = partial(torch.randn, device=device, dtype=dtype)
    y_TAH = make(num_tokens, config.experts_per_token, hidden_size)
    weights_TA = torch.rand(num_tokens, config.experts_per_token, device=device)
    shared_TH, gate_T1 = make(num_tokens, hidden_size), make(num_tokens, 1)

    def expected() -> Sequence[Tensor]:
        routed_TH = (weights_TA.double().unsqueeze(2) * y_TAH.double()).sum(1)
        return [routed_TH + gate_T1.double().sigmoid() * shared_TH.double()]

    return Case(
        operator="experts combined",
        size=f"{num_tokens} x {config.experts_per_token} x {hidden_size}",
        run=partial(moe.combine_experts, y_TAH, weights_TA, shared_TH, gate_T1),
        check=Check(exact=expected, seen=lambda out: [out], limit=LIMITS[dtype]),
        num_bytes=y_TAH.nbytes + 2 * shared_TH.nbytes,
    )
