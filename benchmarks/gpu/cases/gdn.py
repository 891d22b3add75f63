"""The gated delta rule and its convolution, compared with flash-linear-attention if installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels.causal_conv import triton as conv
from segue.kernels.causal_conv import triton_decode as conv_decode
from segue.kernels.gated_delta_rule import triton_decode, triton_parts, triton_prefill

CHUNK_TOKENS = 64
CONV_WIDTH = 4
_CHECKED_TOKENS = 4096
"""From the start of a prompt: the definition takes token after token."""
CHECKED_SEQUENCES = 8
_RANK_HEADS = 8
"""Of a rank of eight that share 397B. So few heads are scanned in parts."""

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Makes = Iterator[partial[Case]]


def gdn_cases(shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype) -> Makes:
    for num_tokens in sizes.gdn_prefill:
        yield partial(_prefill, shape, num_tokens, device, dtype)
    if shape.num_v_heads > _RANK_HEADS:
        rank = replace(shape, num_k_heads=2, num_v_heads=_RANK_HEADS)
        for num_tokens in sizes.gdn_prefill[:1]:
            yield partial(_prefill, rank, num_tokens, device, dtype)
    for num_sequences, num_rounds in sizes.gdn_decode:
        yield partial(_decode, shape, num_sequences, num_rounds, device, dtype)
    for num_tokens in sizes.gdn_prefill[:1]:
        yield partial(_convolved_prefill, shape, num_tokens, device, dtype)
    for num_sequences, num_rounds in sizes.gdn_decode:
        yield partial(_convolved_decode, shape, num_sequences, num_rounds, device, dtype)


def _prefill(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    inputs = _inputs(shape, num_tokens, device, dtype)
    states = new_states(shape, 2, device)
    dim = shape.gdn_dim
    # Per token and value head: twice with the chunk's other tokens (keys and queries with keys,
    # corrections), and three times with the state (recalled, read, added).
    flops_a_head = 2 * (2 * CHUNK_TOKENS * dim + 2 * CHUNK_TOKENS * dim + 3 * dim * dim)
    num_checked = min(num_tokens, _CHECKED_TOKENS)
    is_whole = num_checked == num_tokens
    run = partial(
        triton_prefill.gated_delta_rule_prefill,
        *inputs,
        states,
        **_one_sequence(num_tokens, device),
    )

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
        check=Check(
            exact=expected,
            seen=lambda out: [out[:num_checked], states[1]] if is_whole else [out[:num_checked]],
            # Products have operands in the inputs' dtype, and their errors add up.
            limit=2 * LIMITS[dtype],
        ),
        num_bytes=_bytes(inputs) + num_tokens * shape.num_v_heads * dim * 4 + states.nbytes,
        flops=float(num_tokens * shape.num_v_heads * flops_a_head),
        peers={**_fla(inputs, shape), "in one part": run_whole},
    )


def _decode(
    shape: Shape, num_sequences: int, num_rounds: int, device: str, dtype: torch.dtype
) -> Case:
    num_tokens = num_sequences * num_rounds
    inputs = _inputs(shape, num_tokens, device, dtype)
    states = new_states(shape, num_sequences + num_tokens, device)
    sequences = exact.some_rows(num_sequences, CHECKED_SEQUENCES)
    rows = [j * num_sequences + d for d in sequences for j in range(num_rounds)]

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
            **slots_of(num_sequences, num_tokens, device),
            round_sizes=[num_sequences] * num_rounds,
        ),
        check=Check(
            exact=expected,
            seen=lambda out: [out[rows], states[[num_sequences + row for row in rows]]],
            # From the same rounded inputs, and in float32.
            limit=LIMITS[torch.float32],
        ),
        num_bytes=_bytes(inputs) + states.nbytes,
    )


def _convolved_prefill(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    x_TC, weight_CW, state_SCW = conv_inputs(shape, num_tokens, 2, device, dtype)

    def expected() -> Sequence[Tensor]:
        inputs_TC = torch.cat([state_SCW[0].mT, x_TC])
        return [exact.causal_conv(inputs_TC, weight_CW), inputs_TC[1 - CONV_WIDTH :].mT.double()]

    return Case(
        operator="convolution, prefill",
        size=f"{num_tokens}",
        run=partial(
            conv.causal_conv_prefill,
            x_TC,
            weight_CW,
            state_SCW,
            **_one_sequence(num_tokens, device),
        ),
        check=Check(exact=expected, seen=lambda out: [out, state_SCW[1]], limit=LIMITS[dtype]),
        num_bytes=2 * x_TC.nbytes,
    )


def _convolved_decode(
    shape: Shape, num_sequences: int, num_rounds: int, device: str, dtype: torch.dtype
) -> Case:
    num_tokens = num_sequences * num_rounds
    x_TC, weight_CW, state_SCW = conv_inputs(
        shape, num_tokens, num_sequences + num_tokens, device, dtype
    )
    sequences = exact.some_rows(num_sequences, CHECKED_SEQUENCES)
    rows = [j * num_sequences + d for d in sequences for j in range(num_rounds)]
    last = [num_sequences * num_rounds + d for d in sequences]

    def expected() -> Sequence[Tensor]:
        inputs = [torch.cat([state_SCW[d].mT, x_TC[d::num_sequences]]) for d in sequences]
        outs = [exact.causal_conv(each, weight_CW) for each in inputs]
        states = torch.stack([each[1 - CONV_WIDTH :].mT.double() for each in inputs])
        return [torch.cat(outs), states]

    return Case(
        operator="convolution, decode",
        size=f"{num_sequences} x {num_rounds}",
        run=partial(
            conv_decode.causal_conv_decode,
            x_TC,
            weight_CW,
            state_SCW,
            **slots_of(num_sequences, num_tokens, device),
            round_sizes=[num_sequences] * num_rounds,
        ),
        check=Check(
            exact=expected, seen=lambda out: [out[rows], state_SCW[last]], limit=LIMITS[dtype]
        ),
        num_bytes=2 * x_TC.nbytes + state_SCW.nbytes,
    )


def _inputs(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Inputs:
    make = partial(torch.randn, device=device, dtype=dtype)
    heads, dim = shape.num_v_heads, shape.gdn_dim
    gates = torch.randn(2, num_tokens, heads, device=device)
    return (
        make(num_tokens, shape.num_k_heads, dim),
        make(num_tokens, shape.num_k_heads, dim),
        make(num_tokens, heads, dim),
        -0.1 * gates[0].exp(),
        gates[1].sigmoid(),
    )


def new_states(shape: Shape, num_slots: int, device: str) -> Tensor:
    return torch.randn(num_slots, shape.num_v_heads, shape.gdn_dim, shape.gdn_dim, device=device)


def conv_inputs(
    shape: Shape, num_tokens: int, num_slots: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    num_channels = (2 * shape.num_k_heads + shape.num_v_heads) * shape.gdn_dim
    make = partial(torch.randn, device=device, dtype=dtype)
    return (
        make(num_tokens, num_channels),
        torch.randn(num_channels, CONV_WIDTH, device=device),
        make(num_slots, num_channels, CONV_WIDTH - 1),
    )


def _one_sequence(num_tokens: int, device: str) -> dict[str, Tensor]:
    """It continues from slot 0 and leaves its state in slot 1."""
    return {
        "cu_tokens_M1": torch.tensor([0, num_tokens], device=device),
        "slots_out_M": torch.ones(1, dtype=torch.int64, device=device),
        "cu_segments_N1": torch.tensor([0, 1], device=device),
        "slots_in_N": torch.zeros(1, dtype=torch.int64, device=device),
    }


def slots_of(num_sequences: int, num_tokens: int, device: str) -> dict[str, Tensor]:
    slots = torch.arange(num_sequences + num_tokens, device=device)
    return {"slots_in_D": slots[:num_sequences], "slots_out_T": slots[num_sequences:]}


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
