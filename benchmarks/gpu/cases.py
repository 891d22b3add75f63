"""The cases that `operators` measures, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.attention_cases import attention_cases
from benchmarks.gpu.elementwise_cases import elementwise_cases
from benchmarks.gpu.gdn_cases import gdn_cases
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels import NO_SLOT
from segue.kernels.moe import triton as moe
from segue.kernels.sampling import NO_TOKEN, SamplingFeatures, SamplingRows
from segue.kernels.sampling import triton as sampling
from segue.model.config import MoeConfig


def all_cases(shape: Shape, device: str) -> Iterator[Case]:
    yield from elementwise_cases(shape, device, _dtype(device))
    yield from attention_cases(shape, device, _dtype(device))
    yield from gdn_cases(shape, device, _dtype(device))
    yield from _sampling(shape, device)
    if isinstance(shape.mlp, MoeConfig):
        yield from _experts(shape.hidden_size, shape.mlp, device)
        yield from _combined(shape.hidden_size, shape.mlp, device)


def _sampling(shape: Shape, device: str) -> Iterator[Case]:
    for num_rows in (1, 64) if device != "cpu" else (2,):
        logits_RV = torch.randn(num_rows, shape.vocab_size, device=device)
        rows = _sampled_rows(num_rows, device)
        for name, needs in (
            ("greedy", SamplingFeatures()),
            ("top-k, top-p", SamplingFeatures(draws=True, top_k=True, top_p=True)),
        ):
            yield Case(
                operator=f"sampling, {name}",
                size=f"{num_rows} x {shape.vocab_size}",
                run=partial(sampling.sample, logits_RV, rows, needs, None),
                num_bytes=logits_RV.nbytes,
            )


def _sampled_rows(num_rows: int, device: str) -> SamplingRows:
    def fill(value: float) -> Tensor:
        return torch.full((num_rows,), value, dtype=torch.float64, device=device)

    whole = torch.arange(num_rows, device=device)
    return SamplingRows(
        seed_R=whole,
        position_R=whole + 1,
        top_k_R=torch.full_like(whole, 20),
        slot_R=torch.full_like(whole, NO_SLOT),
        mask_R=torch.full_like(whole, NO_SLOT),
        temperature_R=fill(0.7),
        top_p_R=fill(0.8),
        min_p_R=fill(0.0),
        repetition_penalty_R=fill(1.0),
        presence_penalty_R=fill(0.0),
        frequency_penalty_R=fill(0.0),
        pending_RP=torch.full((num_rows, 0), NO_TOKEN, device=device),
    )


def _experts(hidden_size: int, config: MoeConfig, device: str) -> Iterator[Case]:
    num_experts, width, dtype = config.num_experts, config.intermediate_size, _dtype(device)
    make = partial(torch.randn, device=device, dtype=dtype)
    gate_up_EJH = make(num_experts, 2 * width, hidden_size)
    down_EHI = make(num_experts, hidden_size, width)
    for num_tokens in (1, 8, 64, 8192) if device != "cpu" else (3,):
        x_TH = make(num_tokens, hidden_size)
        router_logits_TE = make(num_tokens, num_experts)
        num_pairs = num_tokens * config.experts_per_token
        chosen = len(
            set(router_logits_TE.topk(config.experts_per_token).indices.flatten().tolist())
        )
        weight_bytes = chosen / num_experts * (gate_up_EJH.nbytes + down_EHI.nbytes)
        yield Case(
            operator="routed experts",
            size=f"{num_tokens} x {config.experts_per_token} of {num_experts}, {chosen} touched",
            run=partial(
                moe.routed_experts,
                x_TH,
                router_logits_TE,
                gate_up_EJH,
                down_EHI,
                experts_per_token=config.experts_per_token,
            ),
            num_bytes=weight_bytes + x_TH.nbytes + num_pairs * hidden_size * dtype.itemsize,
            flops=6.0 * num_pairs * width * hidden_size,
        )


def _combined(hidden_size: int, config: MoeConfig, device: str) -> Iterator[Case]:
    make = partial(torch.randn, device=device, dtype=_dtype(device))
    for num_tokens in (1, 64, 8192) if device != "cpu" else (3,):
        y_TAH = make(num_tokens, config.experts_per_token, hidden_size)
        weights_TA = torch.rand(num_tokens, config.experts_per_token, device=device)
        shared_TH = make(num_tokens, hidden_size)
        yield Case(
            operator="experts combined",
            size=f"{num_tokens} x {config.experts_per_token} x {hidden_size}",
            run=partial(moe.combine_experts, y_TAH, weights_TA, shared_TH, make(num_tokens, 1)),
            num_bytes=y_TAH.nbytes + 2 * shared_TH.nbytes,
        )


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device != "cpu" else torch.float32
