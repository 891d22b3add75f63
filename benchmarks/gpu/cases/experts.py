"""Mixtures of experts: routed ones with plain and quantised weights, and with quantised inputs too;
the sum of their outputs; and, for few tokens, all of it with the shared expert in one operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.scaled import (
    FLOPS_OF_BFLOAT16,
    as_rounded,
    input_scale_of,
    multiplied_on,
)
from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.cases.stored import (
    PLAIN,
    QUANTIZED,
    Weight,
    expert_of,
    num_bytes,
    values_of,
    weight_of,
)
from benchmarks.gpu.operators import Case
from segue.kernels import quantized_product
from segue.kernels.mixed_experts import MixedWeights
from segue.kernels.mixed_experts import triton as mixed
from segue.kernels.moe import triton as moe
from segue.kernels.product import Epilogue
from segue.kernels.product.tiling import FEW_ROWS
from segue.kernels.quantized_product import triton as quantized
from segue.kernels.scaled_product import triton as scaled

_CHECKED_TOKENS = 8
_COMBINED = 3
"""The number of sizes for the sum, which is like any pass over memory."""


def mixed_cases(setup: Setup) -> Iterator[Make]:
    for num_tokens in setup.sizes.expert_tokens:
        if num_tokens <= FEW_ROWS:
            for stored in (PLAIN, *QUANTIZED):
                yield partial(_mixed, setup, stored, num_tokens)


def expert_cases(setup: Setup) -> Iterator[Make]:
    for num_tokens in setup.sizes.expert_tokens:
        yield partial(_plain, setup, num_tokens)
    for num_tokens in setup.sizes.tokens[:_COMBINED]:
        yield partial(_combined, setup, num_tokens)


def quantized_expert_cases(setup: Setup) -> Iterator[Make]:
    for num_tokens in setup.sizes.expert_tokens:
        for stored in QUANTIZED:
            yield partial(_quantized, setup, stored, num_tokens)


def scaled_expert_cases(setup: Setup) -> Iterator[Make]:
    for num_tokens in setup.sizes.scaled_rows:
        for stored in multiplied_on(setup.device):
            yield partial(_scaled, setup, stored, num_tokens)


def num_touched(router_logits_TE: Tensor, experts_per_token: int) -> int:
    """Experts that any token has. Without data (on "meta"), all that may be."""
    num_tokens, num_experts = router_logits_TE.shape
    if router_logits_TE.device.type == "meta":
        return min(num_experts, num_tokens * experts_per_token)
    return len(set(router_logits_TE.topk(experts_per_token).indices.flatten().tolist()))


def _mixed(setup: Setup, stored: str, num_tokens: int) -> Case:
    hidden_size, config = setup.shape.hidden_size, setup.moe
    num_experts, each = config.num_experts, config.experts_per_token
    width, shared_width = config.intermediate_size, config.shared_intermediate_size
    matrix = partial(weight_of, stored, setup)
    weights = MixedWeights(
        gate_up=matrix((num_experts,), 2 * width, hidden_size),
        down=matrix((num_experts,), hidden_size, width),
        shared_gate_up=matrix((), 2 * shared_width, hidden_size),
        shared_down=matrix((), hidden_size, shared_width),
        shared_gate_1H=setup.randn(1, hidden_size) * hidden_size**-0.5,
    )
    x_TH = setup.randn(num_tokens, hidden_size)
    router_logits_TE = setup.randn(num_tokens, num_experts)
    chosen = num_touched(router_logits_TE, each)
    rows = list(exact.some_rows(num_tokens, _CHECKED_TOKENS))

    def expected() -> Sequence[Tensor]:
        x_RH = x_TH[rows]
        y_RAH, weights_RA = exact.experts(
            x_RH,
            router_logits_TE[rows],
            partial(expert_of, stored, weights.gate_up),
            partial(expert_of, stored, weights.down),
            each,
        )
        h_RI = exact.product(x_RH, values_of(stored, weights.shared_gate_up), Epilogue.SILU_GATE)
        shared_RH = exact.product(h_RI, values_of(stored, weights.shared_down), Epilogue.NONE)
        gate_R1 = exact.product(x_RH, weights.shared_gate_1H.double(), Epilogue.NONE).sigmoid()
        return [(weights_RA.unsqueeze(2) * y_RAH).sum(1) + gate_R1 * shared_RH]

    routed = num_bytes(weights.gate_up, weights.down)
    shared = num_bytes(weights.shared_gate_up, weights.shared_down)
    return Case(
        operator="mixed experts" if stored == PLAIN else f"mixed experts in {stored}",
        size=f"{num_tokens} x {each} of {num_experts}, {chosen} touched",
        run=partial(mixed.mixed_experts, x_TH, router_logits_TE, weights, experts_per_token=each),
        exact=expected,
        seen=lambda out: [out[rows]],
        limit=setup.limit,
        num_bytes=chosen / num_experts * routed + shared + 2 * x_TH.nbytes,
        flops=6.0 * num_tokens * (each * width + shared_width) * hidden_size,
    )


def _plain(setup: Setup, num_tokens: int) -> Case:
    inputs, gate_up, down = _inputs(setup, PLAIN, num_tokens)
    run = partial(moe.routed_experts, *inputs, *gate_up, *down)
    return _case(setup, PLAIN, "routed experts", inputs, (gate_up, down), run)


def _quantized(setup: Setup, stored: str, num_tokens: int) -> Case:
    inputs, gate_up, down = _inputs(setup, stored, num_tokens)
    run = partial(quantized.routed_experts, *inputs, gate_up, down)
    return _case(setup, stored, f"experts in {stored}", inputs, (gate_up, down), run)


def _scaled(setup: Setup, stored: str, num_tokens: int) -> Case:
    inputs, gate_up, down = _inputs(setup, stored, num_tokens)
    scale = input_scale_of(inputs[0], stored)
    plain_inputs = partial(quantized_product.routed_experts, *inputs, gate_up, down)
    return _case(
        setup,
        stored,
        f"experts in {stored} of quantised inputs",
        inputs,
        (gate_up, down),
        partial(scaled.routed_experts, *inputs, gate_up, down, (scale, scale)),
        rounded=lambda x: as_rounded(x.to(setup.dtype)[None], gate_up, scale)[0],
        flops_of_bfloat16=FLOPS_OF_BFLOAT16[stored],
        peers={
            "plain inputs": partial(plain_inputs, experts_per_token=setup.moe.experts_per_token)
        },
    )


def _inputs(
    setup: Setup, stored: str, num_tokens: int
) -> tuple[tuple[Tensor, Tensor], Weight, Weight]:
    """Inputs with the router's logits, gate and up, down."""
    num_experts, width = setup.moe.num_experts, setup.moe.intermediate_size
    hidden_size = setup.shape.hidden_size
    return (
        (setup.randn(num_tokens, hidden_size), setup.randn(num_tokens, num_experts)),
        weight_of(stored, setup, (num_experts,), 2 * width, hidden_size),
        weight_of(stored, setup, (num_experts,), hidden_size, width),
    )


def _case(
    setup: Setup,
    stored: str,
    operator: str,
    inputs: tuple[Tensor, Tensor],
    weights: Sequence[Weight],
    run: Callable[..., Any],
    *,
    rounded: exact.Rounding = Tensor.double,
    flops_of_bfloat16: float = 1.0,
    peers: dict[str, Callable[[], object]] | None = None,
) -> Case:
    """`rounded`: what the inputs of both products are rounded to."""
    (x_TH, router_logits_TE), config = inputs, setup.moe
    num_tokens, hidden_size = x_TH.shape
    each, num_experts = config.experts_per_token, config.num_experts
    chosen = num_touched(router_logits_TE, each)
    rows = list(exact.some_rows(num_tokens, _CHECKED_TOKENS))
    gate_up, down = (partial(expert_of, stored, weight) for weight in weights)

    def expected() -> Sequence[Tensor]:
        return exact.experts(x_TH[rows], router_logits_TE[rows], gate_up, down, each, rounded)

    return Case(
        operator=operator,
        size=f"{num_tokens} x {each} of {num_experts}, {chosen} touched",
        run=partial(run, experts_per_token=each),
        exact=expected,
        seen=lambda out: [out[0][rows], out[1][rows]],
        limit=setup.limit,
        num_bytes=chosen / num_experts * num_bytes(*weights) + x_TH.nbytes * (1 + each),
        flops=6.0 * num_tokens * each * config.intermediate_size * hidden_size / flops_of_bfloat16,
        peers=peers or {},
    )


def _combined(setup: Setup, num_tokens: int) -> Case:
    each, hidden_size = setup.moe.experts_per_token, setup.shape.hidden_size
    y_TAH = setup.randn(num_tokens, each, hidden_size)
    weights_TA = torch.rand(num_tokens, each, device=setup.device)
    shared_TH, gate_T1 = setup.randn(num_tokens, hidden_size), setup.randn(num_tokens, 1)

    def expected() -> Sequence[Tensor]:
        routed_TH = (weights_TA.double().unsqueeze(2) * y_TAH.double()).sum(1)
        return [routed_TH + gate_T1.double().sigmoid() * shared_TH.double()]

    return Case(
        operator="experts combined",
        size=f"{num_tokens} x {each} x {hidden_size}",
        run=partial(moe.combine_experts, y_TAH, weights_TA, shared_TH, gate_T1),
        exact=expected,
        limit=setup.limit,
        num_bytes=y_TAH.nbytes + 2 * shared_TH.nbytes,
    )
