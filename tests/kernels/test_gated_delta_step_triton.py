"""The decode step's kernels against the kernels of its four operators, which have tests of their
own, and against their references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segue.kernels import dispatch
from segue.kernels.gated_delta_step import StepWeights, reference, triton
from segue.kernels.product.tiling import FEW_ROWS
from tests.kernels.closeness import assert_close, ints, randn
from tests.kernels.delta_inputs import HEADS, Heads
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.draft_rounds import ROUND_SIZES

WIDTH = 4
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Memory = tuple[Tensor, Tensor]


def channels_of(heads: Heads) -> int:
    num_k_heads, num_v_heads, k_dim, v_dim = heads
    return 2 * num_k_heads * k_dim + num_v_heads * v_dim


def inputs_of(num_tokens: int, heads: Heads, dtype: torch.dtype) -> Inputs:
    """Columns of one projection, as the model has them."""
    _, num_heads, _, v_dim = heads
    widths = [channels_of(heads), num_heads * v_dim, num_heads, num_heads]
    projected = randn(num_tokens, sum(widths), dtype=dtype).to(DEVICE)
    # From barely forgetting to forgetting nearly everything.
    projected[:, -num_heads:] *= 8
    qkv, gate, rate, dt = projected.split(widths, dim=1)
    return qkv, gate.unflatten(1, (num_heads, v_dim)), rate, dt


def weights_of(heads: Heads) -> StepWeights:
    _, num_heads, _, v_dim = heads
    return StepWeights(
        conv_CW=randn(channels_of(heads), WIDTH, seed=9).to(DEVICE),
        minus_a_H=-randn(num_heads, seed=3).exp().to(DEVICE),
        dt_bias_H=randn(num_heads, seed=4).to(DEVICE),
        norm_V=randn(v_dim, seed=5).to(DEVICE),
        eps=1e-6,
    )


def memory_of(num_slots: int, heads: Heads, dtype: torch.dtype) -> Memory:
    recurrent = randn(num_slots, *heads[1:], seed=7).to(DEVICE)
    conv = randn(num_slots, channels_of(heads), WIDTH - 1, seed=8, dtype=dtype).to(DEVICE)
    return recurrent, conv


def copies(memory: Memory) -> Memory:
    return memory[0].clone(), memory[1].clone()


@pytest.fixture
def four_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference consists of operators, which then run on their own kernels."""
    monkeypatch.setattr(dispatch, "takes_kernels", lambda _: True)


def in_rounds(round_sizes: tuple[int, ...]) -> dict[str, Any]:
    """Each row has a slot. The first sequence continues from one that its last token writes."""
    num_tokens, num_sequences = sum(round_sizes), round_sizes[0]
    slots_in = torch.arange(num_tokens, num_tokens + num_sequences)
    slots_in[0] = sum(round_sizes[:-1])
    return {
        "slots_in_D": slots_in.to(DEVICE),
        "slots_out_T": torch.arange(num_tokens).to(DEVICE),
        "round_sizes": round_sizes,
    }


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("round_sizes", ROUND_SIZES)
@pytest.mark.parametrize("dtype", [DTYPES[1], pytest.param(DTYPES[0], marks=pytest.mark.slow)])
@pytest.mark.usefixtures("four_kernels")
def test_it_has_the_bits_of_four_kernels(
    round_sizes: tuple[int, ...], heads: Heads, dtype: torch.dtype
) -> None:
    inputs, weights = inputs_of(sum(round_sizes), heads, dtype), weights_of(heads)
    memory = memory_of(sum(round_sizes) + round_sizes[0], heads, dtype)
    theirs, where = copies(memory), in_rounds(round_sizes)
    expected = reference.gated_delta_step(*inputs, weights, *theirs, **where)

    out = triton.gated_delta_step(*inputs, weights, *memory, **where)

    assert out.dtype is dtype
    assert torch.equal(out, expected)
    assert torch.equal(memory[0], theirs[0])
    assert torch.equal(memory[1], theirs[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_reference(dtype: torch.dtype) -> None:
    heads, where = HEADS[0], in_rounds((2, 2, 1))
    inputs, weights, memory = (
        inputs_of(5, heads, dtype),
        weights_of(heads),
        memory_of(7, heads, dtype),
    )
    before, theirs = copies(memory), copies(memory)
    expected = reference.gated_delta_step(*inputs, weights, *theirs, **where)

    out = triton.gated_delta_step(*inputs, weights, *memory, **where)

    assert_close(out, expected, dtype)
    assert_close(memory[0], theirs[0], dtype)
    assert torch.equal(memory[1], theirs[1])
    assert all(torch.equal(mine[5:], past[5:]) for mine, past in zip(memory, before, strict=True))


def test_a_row_without_a_slot_writes_none() -> None:
    heads = HEADS[0]
    inputs, weights = inputs_of(4, heads, DTYPES[0]), weights_of(heads)
    memory = memory_of(10, heads, DTYPES[0])
    before, all_written = copies(memory), copies(memory)
    where = {"slots_in_D": ints(3, 5).to(DEVICE), "round_sizes": (2, 2)}
    expected = triton.gated_delta_step(
        *inputs, weights, *all_written, slots_out_T=ints(1, 8, 2, 9).to(DEVICE), **where
    )

    out = triton.gated_delta_step(
        *inputs, weights, *memory, slots_out_T=ints(1, -1, 2, -1).to(DEVICE), **where
    )

    assert torch.equal(out, expected)
    untouched = [slot for slot in range(10) if slot not in (1, 2)]
    for mine, past, written in zip(memory, before, all_written, strict=True):
        assert torch.equal(mine[[1, 2]], written[[1, 2]])
        assert torch.equal(mine[untouched], past[untouched])


@pytest.mark.usefixtures("four_kernels")
def test_a_row_has_the_same_bits_in_a_large_batch() -> None:
    heads, num = HEADS[1], FEW_ROWS + 1
    inputs, weights = inputs_of(num, heads, DTYPES[1]), weights_of(heads)
    memory = memory_of(2 * num, heads, DTYPES[1])
    alone = copies(memory)

    together = triton.gated_delta_step(*inputs, weights, *memory, **in_rounds((num,)))

    where = {
        "slots_in_D": ints(num + 5).to(DEVICE),
        "slots_out_T": ints(5).to(DEVICE),
        "round_sizes": (1,),
    }
    out = triton.gated_delta_step(*(x[5:6] for x in inputs), weights, *alone, **where)
    assert torch.equal(out[0], together[5])
    for mine, theirs in zip(alone, memory, strict=True):
        assert torch.equal(mine[5], theirs[5])


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_after_drafts_are_those_after_single_tokens(dtype: torch.dtype) -> None:
    heads, num, num_rounds = HEADS[0], 3, 4
    inputs, weights = inputs_of(num * num_rounds, heads, dtype), weights_of(heads)
    memory = memory_of(num * num_rounds + num, heads, dtype)
    before, where = copies(memory), in_rounds((num,) * num_rounds)

    together = triton.gated_delta_step(*inputs, weights, *memory, **where)

    for sequence in (0, 2):
        alone, slot_in = copies(before), where["slots_in_D"][sequence : sequence + 1]
        for row in range(sequence, num * num_rounds, num):
            slot_out = ints(row).to(DEVICE)
            out = triton.gated_delta_step(
                *(x[row : row + 1] for x in inputs),
                weights,
                *alone,
                slots_in_D=slot_in,
                slots_out_T=slot_out,
                round_sizes=(1,),
            )
            slot_in = slot_out
            assert torch.equal(out[0], together[row])
            assert all(torch.equal(a[row], b[row]) for a, b in zip(alone, memory, strict=True))


def test_what_its_kernels_cannot_read_is_refused() -> None:
    heads = HEADS[0]
    (qkv, gate, rate, dt), weights = inputs_of(2, heads, DTYPES[0]), weights_of(heads)
    recurrent, conv = memory_of(4, heads, DTYPES[0])
    where = in_rounds((2,))

    def refuses(*arguments: Any) -> bool:
        with pytest.raises(ValueError, match=r"must|needs"):
            triton.gated_delta_step(*arguments, **where)
        return True

    assert refuses(qkv, gate.mT, rate, dt, weights, recurrent, conv)
    assert refuses(qkv, gate, rate[:, :1], dt, weights, recurrent, conv)
    assert refuses(qkv, gate, rate, dt[:1], weights, recurrent, conv)
    assert refuses(qkv, gate, rate, dt, weights, recurrent.mT, conv)
    assert refuses(qkv, gate, rate, dt, weights, recurrent.half(), conv)
    assert refuses(qkv[:, :-1], gate, rate, dt, weights, recurrent, conv)
    half = replace(weights, norm_V=weights.norm_V.half())
    assert refuses(qkv, gate, rate, dt, half, recurrent, conv)
