"""The gated delta rule, its convolution, and a decode step of both, compared with
flash-linear-attention if installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case
from segue.kernels.causal_conv import triton as conv
from segue.kernels.causal_conv import triton_decode as conv_decode
from segue.kernels.gated_delta_rule import triton_decode, triton_parts, triton_prefill
from segue.kernels.gated_delta_step import StepWeights
from segue.kernels.gated_delta_step import triton as step

_CHUNK_TOKENS = 64
_CONV_WIDTH = 4
_CHECKED_TOKENS = 4096
"""At the start of a prompt: the definition computes one token after the other."""
_CHECKED_SEQUENCES = 8
_RANK_HEADS = 8
"""The heads of one of eight ranks of the 397B, few enough to be scanned in parts."""

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def gdn_cases(setup: Setup) -> Iterator[Make]:
    sizes = setup.sizes
    for num_tokens in sizes.gdn_prefill:
        yield partial(_prefill, setup, num_tokens)
    if setup.shape.num_v_heads > _RANK_HEADS:
        rank = replace(setup.shape, num_k_heads=2, num_v_heads=_RANK_HEADS)
        for num_tokens in sizes.gdn_prefill[:1]:
            yield partial(_prefill, replace(setup, shape=rank), num_tokens)
    for size in sizes.gdn_decode:
        yield partial(_decode, setup, *size)
    for num_tokens in sizes.gdn_prefill[:1]:
        yield partial(_convolved_prefill, setup, num_tokens)
    for size in sizes.gdn_decode:
        yield partial(_convolved_decode, setup, *size)


def gdn_step_cases(setup: Setup) -> Iterator[Make]:
    for size in setup.sizes.gdn_decode:
        yield partial(_step, setup, *size)


def _prefill(setup: Setup, num_tokens: int) -> Case:
    shape, dim = setup.shape, setup.shape.gdn_dim
    inputs = _inputs(setup, num_tokens)
    states = _states(setup, 2)
    # Per token and value head: twice with the chunk's other tokens (keys and queries with keys,
    # corrections), and three times with the state (recalled, read, added).
    flops_a_head = 2 * (2 * _CHUNK_TOKENS * dim + 2 * _CHUNK_TOKENS * dim + 3 * dim * dim)
    num_checked = min(num_tokens, _CHECKED_TOKENS)
    is_whole = num_checked == num_tokens
    sequence = _one_sequence(num_tokens, setup.device)
    run = partial(triton_prefill.gated_delta_rule_prefill, *inputs, states, **sequence)

    def run_whole() -> Tensor:
        with mock.patch.object(triton_parts, "MOST_PARTS", 1):
            return run()

    def expected() -> Sequence[Tensor]:
        out, states_after = exact.delta_rule([x[:num_checked] for x in inputs], states[0])
        return [out, states_after[-1]] if is_whole else [out]

    return Case(
        operator="delta rule, prefill",
        size=f"{num_tokens}" + (", 8 heads" if shape.num_v_heads == _RANK_HEADS else ""),
        run=run,
        exact=expected,
        seen=lambda out: [out[:num_checked], states[1]] if is_whole else [out[:num_checked]],
        # Products have operands in the inputs' dtype, and their errors add up.
        limit=2 * setup.limit,
        num_bytes=_bytes(inputs) + num_tokens * shape.num_v_heads * dim * 4 + states.nbytes,
        flops=float(num_tokens * shape.num_v_heads * flops_a_head),
        peers={**_fla(inputs, shape), "in one part": run_whole},
    )


def _decode(setup: Setup, num_sequences: int, num_rounds: int) -> Case:
    inputs = _inputs(setup, num_sequences * num_rounds)
    states = _states(setup, num_sequences * (1 + num_rounds))
    sequences, rows = _checked(num_sequences, num_rounds)

    def expected() -> Sequence[Tensor]:
        found = [
            exact.delta_rule([x[sequence::num_sequences] for x in inputs], states[sequence])
            for sequence in sequences
        ]
        return [torch.cat(part) for part in zip(*found, strict=True)]

    return Case(
        operator="delta rule, decode",
        size=f"{num_sequences} x {num_rounds}",
        run=partial(
            triton_decode.gated_delta_rule_decode,
            *inputs,
            states,
            **_rounds(num_sequences, num_rounds, setup.device),
        ),
        exact=expected,
        seen=lambda out: [out[rows], states[[num_sequences + row for row in rows]]],
        # From the same rounded inputs, and in float32.
        limit=LIMITS[torch.float32],
        num_bytes=_bytes(inputs) + states.nbytes,
    )


def _convolved_prefill(setup: Setup, num_tokens: int) -> Case:
    x_TC, weight_CW, state_SCW = _conv_inputs(setup, num_tokens, 2)
    sequence = _one_sequence(num_tokens, setup.device)

    def expected() -> Sequence[Tensor]:
        inputs_TC = torch.cat([state_SCW[0].mT, x_TC])
        return [exact.causal_conv(inputs_TC, weight_CW), inputs_TC[1 - _CONV_WIDTH :].mT.double()]

    return Case(
        operator="convolution, prefill",
        size=f"{num_tokens}",
        run=partial(conv.causal_conv_prefill, x_TC, weight_CW, state_SCW, **sequence),
        exact=expected,
        seen=lambda out: [out, state_SCW[1]],
        limit=setup.limit,
        num_bytes=2 * x_TC.nbytes,
    )


def _convolved_decode(setup: Setup, num_sequences: int, num_rounds: int) -> Case:
    num_tokens = num_sequences * num_rounds
    x_TC, weight_CW, state_SCW = _conv_inputs(setup, num_tokens, num_sequences + num_tokens)
    sequences, rows = _checked(num_sequences, num_rounds)
    last = [num_sequences * num_rounds + d for d in sequences]

    def expected() -> Sequence[Tensor]:
        inputs = [torch.cat([state_SCW[d].mT, x_TC[d::num_sequences]]) for d in sequences]
        outs = [exact.causal_conv(each, weight_CW) for each in inputs]
        states = torch.stack([each[1 - _CONV_WIDTH :].mT.double() for each in inputs])
        return [torch.cat(outs), states]

    return Case(
        operator="convolution, decode",
        size=f"{num_sequences} x {num_rounds}",
        run=partial(
            conv_decode.causal_conv_decode,
            x_TC,
            weight_CW,
            state_SCW,
            **_rounds(num_sequences, num_rounds, setup.device),
        ),
        exact=expected,
        seen=lambda out: [out[rows], state_SCW[last]],
        limit=setup.limit,
        num_bytes=2 * x_TC.nbytes + state_SCW.nbytes,
    )


def _step(setup: Setup, num_sequences: int, num_rounds: int) -> Case:
    """All between the projections. Its floor is that of one kernel."""
    num_tokens, num_slots = num_sequences * num_rounds, num_sequences * (1 + num_rounds)
    num_heads, dim = setup.shape.num_v_heads, setup.shape.gdn_dim
    x_TC, conv_CW, conv_SCW = _conv_inputs(setup, num_tokens, num_slots)
    states = _states(setup, num_slots)
    gate_THV = setup.randn(num_tokens, num_heads, dim)
    rate_TH, dt_TH = setup.randn(2, num_tokens, num_heads)
    weights = StepWeights(
        conv_CW=conv_CW,
        minus_a_H=-0.1 * setup.randn_float32(num_heads).exp(),
        dt_bias_H=setup.randn_float32(num_heads),
        norm_V=setup.randn_float32(dim),
        eps=1e-6,
    )
    sequences, rows = _checked(num_sequences, num_rounds)

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
            **_rounds(num_sequences, num_rounds, setup.device),
        ),
        exact=expected,
        seen=lambda out: [out[rows], states[[num_sequences + row for row in rows]]],
        limit=setup.limit,
        num_bytes=x_TC.nbytes + 2 * gate_THV.nbytes + conv_SCW.nbytes + states.nbytes,
    )


def _inputs(setup: Setup, num_tokens: int) -> Inputs:
    shape = setup.shape
    heads, dim = shape.num_v_heads, shape.gdn_dim
    gates = setup.randn_float32(2, num_tokens, heads)
    return (
        setup.randn(num_tokens, shape.num_k_heads, dim),
        setup.randn(num_tokens, shape.num_k_heads, dim),
        setup.randn(num_tokens, heads, dim),
        -0.1 * gates[0].exp(),
        gates[1].sigmoid(),
    )


def _states(setup: Setup, num_slots: int) -> Tensor:
    dim = setup.shape.gdn_dim
    return setup.randn_float32(num_slots, setup.shape.num_v_heads, dim, dim)


def _conv_inputs(setup: Setup, num_tokens: int, num_slots: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = setup.shape
    num_channels = (2 * shape.num_k_heads + shape.num_v_heads) * shape.gdn_dim
    return (
        setup.randn(num_tokens, num_channels),
        setup.randn_float32(num_channels, _CONV_WIDTH),
        setup.randn(num_slots, num_channels, _CONV_WIDTH - 1),
    )


def _checked(num_sequences: int, num_rounds: int) -> tuple[Sequence[int], list[int]]:
    """Some sequences, and the rows of their tokens, which are round after round."""
    sequences = exact.some_rows(num_sequences, _CHECKED_SEQUENCES)
    return sequences, [j * num_sequences + d for d in sequences for j in range(num_rounds)]


def _one_sequence(num_tokens: int, device: str) -> dict[str, Tensor]:
    """It continues from slot 0 and leaves its state in slot 1."""
    return {
        "cu_tokens_M1": torch.tensor([0, num_tokens], device=device),
        "slots_out_M": torch.ones(1, dtype=torch.int64, device=device),
        "cu_segments_N1": torch.tensor([0, 1], device=device),
        "slots_in_N": torch.zeros(1, dtype=torch.int64, device=device),
    }


def _rounds(num_sequences: int, num_rounds: int, device: str) -> dict[str, Any]:
    """Each sequence continues from a slot of its own and leaves a state after each token."""
    slots = torch.arange(num_sequences * (1 + num_rounds), device=device)
    return {
        "slots_in_D": slots[:num_sequences],
        "slots_out_T": slots[num_sequences:],
        "round_sizes": [num_sequences] * num_rounds,
    }


def _bytes(inputs: Inputs) -> int:
    return sum(x.nbytes for x in inputs)


def _fla(inputs: Inputs, shape: Shape) -> dict[str, Callable[[], object]]:
    """Its chunked forward pass for the same prompt, with key heads repeated as it requires."""
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError:
        return {}
    q, k, v, log_decay, rate = (x[None] for x in inputs)
    repeats = shape.num_v_heads // shape.num_k_heads
    return {
        "flash-linear-attention": partial(
            chunk_gated_delta_rule,
            q.repeat_interleave(repeats, dim=2),
            k.repeat_interleave(repeats, dim=2),
            v,
            g=log_decay,
            beta=rate.to(v.dtype),
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
    }
