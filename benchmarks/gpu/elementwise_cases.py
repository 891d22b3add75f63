"""Norms, gates and the preparation of attention inputs: one pass over memory each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels.attention_input import triton as attention_input
from segue.kernels.gates import triton as gates
from segue.kernels.rms_norm import triton as rms_norm
from segue.kernels.rms_norm import triton_gated
from segue.kernels.rotary import rotary_frequencies, rotary_tables

EPS = 1e-6
PAGE_TOKENS = 64
TOKENS = (1, 64, 8192)


def elementwise_cases(shape: Shape, device: str, dtype: torch.dtype) -> Iterator[Case]:
    for num_tokens in TOKENS if device != "cpu" else (3,):
        yield _add_and_norm(shape, num_tokens, device, dtype)
        yield _gated_norm(shape, num_tokens, device, dtype)
        yield _attention_input(shape, num_tokens, device, dtype)
        yield _silu_gate(shape, num_tokens, device, dtype)
        yield _sigmoid_gate(shape, num_tokens, device, dtype)
        yield _decay_and_rate(shape, num_tokens, device, dtype)
        yield _join(shape, num_tokens, device, dtype)


def _add_and_norm(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    x_TH, y_TH = torch.randn(2, num_tokens, shape.hidden_size, device=device).to(dtype)
    weight_H = torch.zeros(shape.hidden_size, device=device)
    return Case(
        operator="add and RMS norm",
        size=f"{num_tokens} x {shape.hidden_size}",
        run=partial(rms_norm.add_rms_norm, x_TH, y_TH, weight_H, eps=EPS),
        num_bytes=4 * x_TH.nbytes,
    )


def _gated_norm(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    size = (num_tokens, shape.num_v_heads, shape.gdn_dim)
    x_THV = torch.randn(size, device=device)
    gate_THV = torch.randn(size, device=device).to(dtype)
    weight_V = torch.ones(shape.gdn_dim, device=device)
    return Case(
        operator="gated RMS norm",
        size=f"{num_tokens} x {shape.num_v_heads} x {shape.gdn_dim}",
        run=partial(triton_gated.gated_rms_norm, x_THV, gate_THV, weight_V, eps=EPS),
        num_bytes=x_THV.nbytes + 2 * gate_THV.nbytes,
    )


def _attention_input(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    head_dim, num_kv_heads = shape.head_dim, shape.num_kv_heads
    width = (2 * shape.num_heads + 2 * num_kv_heads) * head_dim
    packed_TY = torch.randn(num_tokens, width, device=device).to(dtype)
    norm_X = torch.zeros(head_dim, device=device)
    positions_T = torch.arange(num_tokens, device=device)
    frequencies_R = rotary_frequencies(head_dim // 4, theta=1e7).to(device)
    num_pages = num_tokens // PAGE_TOKENS + 1
    pages = torch.zeros(
        num_pages, 2, num_kv_heads, PAGE_TOKENS, head_dim, device=device, dtype=dtype
    )
    return Case(
        operator="attention input",
        size=f"{num_tokens}",
        run=partial(
            attention_input.attention_input,
            packed_TY,
            norm_X,
            norm_X,
            *rotary_tables(positions_T, frequencies_R),
            pages,
            pages_T=positions_T // PAGE_TOKENS,
            offsets_T=positions_T % PAGE_TOKENS,
            eps=EPS,
        ),
        # The output gates are not moved.
        num_bytes=2 * packed_TY.nbytes * (1 - shape.num_heads * head_dim / width),
    )


def _silu_gate(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    gate_up = torch.randn(num_tokens, 2 * 4 * shape.hidden_size, device=device).to(dtype)
    return Case(
        operator="SiLU gate",
        size=f"{num_tokens} x {4 * shape.hidden_size}",
        run=partial(gates.silu_gate, gate_up),
        num_bytes=1.5 * gate_up.nbytes,
    )


def _sigmoid_gate(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    size = (2, num_tokens, shape.num_heads, shape.head_dim)
    x_TQX, gate_TQX = torch.randn(size, device=device).to(dtype)
    return Case(
        operator="sigmoid gate",
        size=f"{num_tokens} x {shape.num_heads} x {shape.head_dim}",
        run=partial(gates.sigmoid_gate, x_TQX, gate_TQX),
        num_bytes=3 * x_TQX.nbytes,
    )


def _decay_and_rate(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    dt_TN, rate_TN = torch.randn(2, num_tokens, shape.num_v_heads, device=device).to(dtype)
    minus_a_N, dt_bias_N = torch.randn(2, shape.num_v_heads, device=device)
    return Case(
        operator="decay and rate",
        size=f"{num_tokens} x {shape.num_v_heads}",
        run=partial(gates.decay_and_rate, dt_TN, rate_TN, minus_a_N, dt_bias_N),
        # Both results are float32.
        num_bytes=2 * dt_TN.nbytes + 2 * dt_TN.numel() * 4,
    )


def _join(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    x_TH, y_TH = torch.randn(2, num_tokens, shape.hidden_size, device=device).to(dtype)
    weight_H = torch.zeros(shape.hidden_size, device=device)
    return Case(
        operator="RMS norms joined",
        size=f"{num_tokens} x 2 x {shape.hidden_size}",
        run=partial(rms_norm.join_rms_norms, x_TH, y_TH, weight_H, weight_H, eps=EPS),
        num_bytes=4 * x_TH.nbytes,
    )
