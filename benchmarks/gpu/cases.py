"""The cases that `operators` measures, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.attention_cases import attention_cases
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels.moe import triton as moe
from segue.kernels.rms_norm import triton as rms_norm
from segue.model.config import MoeConfig


def all_cases(shape: Shape, device: str) -> Iterator[Case]:
    yield from _rms_norm(shape, device)
    yield from attention_cases(shape, device, _dtype(device))
    if isinstance(shape.mlp, MoeConfig):
        yield from _experts(shape.hidden_size, shape.mlp, device)


def _rms_norm(shape: Shape, device: str) -> Iterator[Case]:
    for num_tokens in (1, 64, 8192) if device != "cpu" else (3,):
        x_TH = torch.randn(num_tokens, shape.hidden_size, device=device).to(_dtype(device))
        weight_H = torch.zeros(shape.hidden_size, device=device)
        yield Case(
            operator="RMS norm",
            size=f"{num_tokens} x {shape.hidden_size}",
            run=partial(rms_norm.rms_norm, x_TH, weight_H, eps=1e-6),
            num_bytes=2 * x_TH.nbytes,
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


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device != "cpu" else torch.float32
