"""Norms, gates and the preparation of attention inputs: one pass over memory each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.operators import LIMITS, Case
from segue.kernels.attention_input import triton as attention_input
from segue.kernels.gates import triton as gates
from segue.kernels.rms_norm import triton as rms_norm
from segue.kernels.rms_norm import triton_gated
from segue.kernels.rotary import rotary_frequencies, rotary_tables

EPS = 1e-6


def elementwise_cases(setup: Setup) -> Iterator[Make]:
    yield from norm_cases(setup)
    for num_tokens in setup.sizes.tokens:
        for with_queries in (True, False):
            yield partial(_attention_input, setup, num_tokens, with_queries=with_queries)
        for make in (_silu_gate, _sigmoid_gate, _decay_and_rate):
            yield partial(make, setup, num_tokens)


def norm_cases(setup: Setup) -> Iterator[Make]:
    for num_tokens in setup.sizes.tokens:
        for make in (_norm, _add_and_norm, _join, _gated_norm):
            yield partial(make, setup, num_tokens)


def _norm(setup: Setup, num_tokens: int) -> Case:
    x_TH = setup.randn(num_tokens, setup.shape.hidden_size)
    weight_H = setup.randn_float32(setup.shape.hidden_size) / 8
    return Case(
        operator="RMS norm",
        size=f"{num_tokens} x {setup.shape.hidden_size}",
        run=partial(rms_norm.rms_norm, x_TH, weight_H, eps=EPS),
        exact=lambda: [exact.rms_norm(x_TH, weight_H, EPS)],
        limit=setup.limit,
        num_bytes=2 * x_TH.nbytes,
    )


def _add_and_norm(setup: Setup, num_tokens: int) -> Case:
    x_TH, y_TH = setup.randn(2, num_tokens, setup.shape.hidden_size)
    weight_H = setup.randn_float32(setup.shape.hidden_size) / 8

    def expected() -> Sequence[Tensor]:
        # The norm is of the rounded sum.
        return [x_TH.double() + y_TH.double(), exact.rms_norm(x_TH + y_TH, weight_H, EPS)]

    return Case(
        operator="add and RMS norm",
        size=f"{num_tokens} x {setup.shape.hidden_size}",
        run=partial(rms_norm.add_rms_norm, x_TH, y_TH, weight_H, eps=EPS),
        exact=expected,
        seen=list,
        limit=setup.limit,
        num_bytes=4 * x_TH.nbytes,
    )


def _join(setup: Setup, num_tokens: int) -> Case:
    x_TH, y_TH = setup.randn(2, num_tokens, setup.shape.hidden_size)
    weights = setup.randn_float32(2, setup.shape.hidden_size) / 8

    def expected() -> Sequence[Tensor]:
        both = zip((x_TH, y_TH), weights, strict=True)
        return [torch.cat([exact.rms_norm(x, weight, EPS) for x, weight in both], -1)]

    return Case(
        operator="RMS norms joined",
        size=f"{num_tokens} x 2 x {setup.shape.hidden_size}",
        run=partial(rms_norm.join_rms_norms, x_TH, y_TH, *weights, eps=EPS),
        exact=expected,
        limit=setup.limit,
        num_bytes=4 * x_TH.nbytes,
    )


def _gated_norm(setup: Setup, num_tokens: int) -> Case:
    size = (num_tokens, setup.shape.num_v_heads, setup.shape.gdn_dim)
    x_THV = setup.randn_float32(*size)
    gate_THV = setup.randn(*size)
    weight_V = setup.randn_float32(setup.shape.gdn_dim)
    return Case(
        operator="gated RMS norm",
        size=f"{num_tokens} x {setup.shape.num_v_heads} x {setup.shape.gdn_dim}",
        run=partial(triton_gated.gated_rms_norm, x_THV, gate_THV, weight_V, eps=EPS),
        exact=lambda: [exact.gated_rms_norm(x_THV, gate_THV, weight_V, EPS)],
        limit=setup.limit,
        num_bytes=x_THV.nbytes + 2 * gate_THV.nbytes,
    )


def _attention_input(setup: Setup, num_tokens: int, *, with_queries: bool) -> Case:
    """With queries, or as an MTP layer stores keys and values alone."""
    shape, device, page_tokens = setup.shape, setup.device, setup.sizes.page_tokens
    head_dim, num_kv_heads = shape.head_dim, shape.num_kv_heads
    num_heads = shape.num_heads if with_queries else 0
    packed_TNX = setup.randn(num_tokens, 2 * (num_heads + num_kv_heads), head_dim)
    q_norm_X, k_norm_X = setup.randn_float32(2, head_dim) / 8
    positions_T = torch.arange(num_tokens, device=device)
    frequencies_R = rotary_frequencies(head_dim // 4, theta=1e7).to(device)
    tables = rotary_tables(positions_T, frequencies_R)
    num_pages = num_tokens // page_tokens + 1
    pages = torch.zeros(
        num_pages, 2, num_kv_heads, page_tokens, head_dim, device=device, dtype=setup.dtype
    )
    where = {"pages_T": positions_T // page_tokens, "offsets_T": positions_T % page_tokens}
    keys = slice(2 * num_heads, 2 * num_heads + num_kv_heads)

    def seen(out: object) -> Sequence[Tensor]:
        stored = [
            pages[:, which].transpose(1, 2).reshape(-1, num_kv_heads, head_dim)[:num_tokens]
            for which in range(2)
        ]
        return [*out, *stored] if isinstance(out, tuple) else stored

    def expected() -> Sequence[Tensor]:
        q_TQX, gate_TQX = (packed_TNX[:, which : 2 * num_heads : 2] for which in range(2))
        stored = [
            exact.rotated(exact.rms_norm(packed_TNX[:, keys], k_norm_X, EPS), *tables),
            packed_TNX[:, keys.stop :].double(),
        ]
        if not with_queries:
            return stored
        q_TQX = exact.rotated(exact.rms_norm(q_TQX, q_norm_X, EPS), *tables)
        return [q_TQX, gate_TQX.double(), *stored]

    norms = (q_norm_X, k_norm_X) if with_queries else (k_norm_X,)
    launch: Callable[..., object] = (
        attention_input.attention_input if with_queries else attention_input.store_keys_and_values
    )
    return Case(
        operator="attention input" if with_queries else "keys and values to pages",
        size=f"{num_tokens}",
        run=partial(launch, packed_TNX.flatten(1), *norms, *tables, pages, **where, eps=EPS),
        exact=expected,
        seen=seen,
        limit=setup.limit,
        # The output gates are not moved.
        num_bytes=2 * packed_TNX.nbytes * (num_heads + 2 * num_kv_heads) / packed_TNX.shape[1],
    )


def _silu_gate(setup: Setup, num_tokens: int) -> Case:
    gate_up = setup.randn(num_tokens, 2 * 4 * setup.shape.hidden_size)

    def expected() -> Sequence[Tensor]:
        gate, up = gate_up.double().chunk(2, 1)
        return [F.silu(gate) * up]

    return Case(
        operator="SiLU gate",
        size=f"{num_tokens} x {4 * setup.shape.hidden_size}",
        run=partial(gates.silu_gate, gate_up),
        exact=expected,
        limit=setup.limit,
        num_bytes=1.5 * gate_up.nbytes,
    )


def _sigmoid_gate(setup: Setup, num_tokens: int) -> Case:
    size = (2, num_tokens, setup.shape.num_heads, setup.shape.head_dim)
    x_TQX, gate_TQX = setup.randn(*size)
    return Case(
        operator="sigmoid gate",
        size=f"{num_tokens} x {setup.shape.num_heads} x {setup.shape.head_dim}",
        run=partial(gates.sigmoid_gate, x_TQX, gate_TQX),
        exact=lambda: [x_TQX.double() * gate_TQX.double().sigmoid()],
        limit=setup.limit,
        num_bytes=3 * x_TQX.nbytes,
    )


def _decay_and_rate(setup: Setup, num_tokens: int) -> Case:
    dt_TN, rate_TN = setup.randn(2, num_tokens, setup.shape.num_v_heads)
    minus_a_N, dt_bias_N = setup.randn_float32(2, setup.shape.num_v_heads)

    def expected() -> Sequence[Tensor]:
        softplus_TN = F.softplus(dt_TN.double() + dt_bias_N.double())
        return [minus_a_N.double() * softplus_TN, rate_TN.double().sigmoid()]

    return Case(
        operator="decay and rate",
        size=f"{num_tokens} x {setup.shape.num_v_heads}",
        run=partial(gates.decay_and_rate, dt_TN, rate_TN, minus_a_N, dt_bias_N),
        # Both results are float32.
        exact=expected,
        seen=list,
        limit=LIMITS[torch.float32],
        num_bytes=2 * dt_TN.nbytes + 2 * dt_TN.numel() * 4,
    )
