"""A token's bits do not depend on what else its step computes: neither on the other sequences, nor
on how many tokens of its own are verified with it. Of operators not listed here, the products and
attention, their own tests say so."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.runner import ModelRunner
from segue.kernels import dispatch
from segue.kernels.causal_conv import triton_decode as causal_conv
from segue.kernels.gated_delta_rule import triton_decode as delta_rule
from segue.kernels.gates import triton as gates
from segue.kernels.moe import triton as moe
from segue.kernels.product.tiling import FEW_ROWS
from segue.kernels.rms_norm import triton as rms_norm
from segue.kernels.rms_norm import triton_gated
from segue.kernels.sampling import EVERYTHING
from tests.checkpoints import Variant, add_mtp_layer
from tests.conftest import MakeCheckpoint
from tests.kernels.closeness import ints, randn
from tests.kernels.delta_inputs import inputs_of
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.test_sampling import some_logits, some_row
from tests.kernels.test_sampling_triton import sampled
from tests.kernels.test_whole_model import SIZES
from tests.runners import new_runner

HEADS = (1, 2, 16, 32)
Memory = tuple[Tensor, Tensor]
PARTS = [slice(0, 1), slice(5, 6), slice(3, 7), slice(8, 24), slice(31, 32)]
"""Of `FEW_ROWS` tokens."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_gates(dtype: torch.dtype) -> None:
    x, y = (randn(FEW_ROWS, 2, 40, seed=seed, dtype=dtype).to(DEVICE) for seed in (0, 1))
    weight = randn(40, seed=2).to(DEVICE)
    decay = partial(gates.decay_and_rate, minus_a_N=weight, dt_bias_N=weight)
    operators = [
        lambda x, y: rms_norm.rms_norm(x, weight, eps=1e-6),
        lambda x, y: torch.stack(rms_norm.add_rms_norm(x, y, weight, eps=1e-6), 1),
        lambda x, y: rms_norm.join_rms_norms(x, y, weight, weight, eps=1e-6),
        lambda x, y: triton_gated.gated_rms_norm(x, y, weight, eps=1e-6),
        lambda x, y: gates.silu_gate(x.flatten(1)),
        gates.sigmoid_gate,
        lambda x, y: torch.stack(decay(x[:, 0], y[:, 1]), 1),
    ]
    for number, operator in enumerate(operators):
        whole = operator(x, y)
        for part in PARTS:
            assert torch.equal(operator(x[part], y[part]), whole[part]), f"operator {number}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_and_their_sum(dtype: torch.dtype) -> None:
    hidden, width, num_experts, chosen = 40, 20, 8, 3
    gate_up = randn(num_experts, 2 * width, hidden, seed=3, dtype=dtype).to(DEVICE)
    down = randn(num_experts, hidden, width, seed=4, dtype=dtype).to(DEVICE)
    x, shared = (randn(FEW_ROWS, hidden, seed=seed, dtype=dtype).to(DEVICE) for seed in (0, 5))
    logits = randn(FEW_ROWS, num_experts, seed=1, dtype=dtype).to(DEVICE)
    gate = randn(FEW_ROWS, 1, seed=6, dtype=dtype).to(DEVICE)

    def mixed(part: slice) -> Tensor:
        routed = moe.routed_experts(x[part], logits[part], gate_up, down, experts_per_token=chosen)
        return moe.combine_experts(*routed, shared[part], gate[part])

    whole = mixed(slice(None))

    for part in PARTS:
        assert torch.equal(mixed(part), whole[part])


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_after_drafts_are_those_after_single_tokens(dtype: torch.dtype) -> None:
    """Three sequences in four rounds, and each of them alone, token by token."""
    num, rounds = 3, 4
    inputs = inputs_of(num * rounds, HEADS, dtype)
    x = randn(num * rounds, 70, seed=8, dtype=dtype).to(DEVICE)
    weight = randn(70, 4, seed=9, dtype=dtype).to(DEVICE)
    recurrent = randn(20, *HEADS[1:], seed=7).to(DEVICE)
    conv = randn(20, 70, 3, seed=3, dtype=dtype).to(DEVICE)

    def step(rows: Tensor, slots_in: Tensor, sizes: list[int], memory: Memory) -> Memory:
        where = {"slots_in_D": slots_in, "slots_out_T": rows, "round_sizes": sizes}
        mixed = causal_conv.causal_conv_decode(x[rows], weight, memory[1], **where)
        parts = [part[rows] for part in inputs]
        return mixed, delta_rule.gated_delta_rule_decode(*parts, memory[0], **where)

    together = recurrent.clone(), conv.clone()
    all_rows = torch.arange(num * rounds).to(DEVICE)
    mixed, out = step(all_rows, ints(15, 16, 17).to(DEVICE), [num] * rounds, together)

    for sequence in (0, 2):
        alone, slot = (recurrent.clone(), conv.clone()), 15 + sequence
        for token in range(rounds):
            row = token * num + sequence
            one = step(ints(row).to(DEVICE), ints(slot).to(DEVICE), [1], alone)
            slot = row
            assert torch.equal(one[0][0], mixed[row])
            assert torch.equal(one[1][0], out[row])
            for mine, theirs in zip(alone, together, strict=True):
                assert torch.equal(mine[row], theirs[row])


def test_sampled_tokens() -> None:
    generator = random.Random(3)
    logits = torch.cat([some_logits(generator, 1, 300) for _ in range(7)])
    wanted = [some_row(generator, 300) for _ in range(7)]

    whole = sampled(logits, wanted, EVERYTHING, 128)

    for part in (slice(0, 1), slice(4, 7)):
        assert sampled(logits[part], wanted[part], EVERYTHING, 128) == whole[part]


@dataclass(frozen=True, slots=True)
class Sequence:
    """A prompt, and four tokens that follow it; with its places."""

    prompt: list[int]
    answer: list[int]
    pages: list[int]
    slot: int

    def slots_out(self, num_tokens: int) -> list[int]:
        return [self.slot + 1 + i for i in range(num_tokens)]


def sequences() -> list[Sequence]:
    generator = random.Random(5)

    def ids(num: int) -> list[int]:
        return [generator.randrange(300) for _ in range(num)]

    lengths = (17, 3, 30, 14)
    return [
        Sequence(ids(n), ids(4), [3 * i, 3 * i + 1, 3 * i + 2], 6 * i)
        for i, n in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def folder(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = make_checkpoint(Variant(is_moe=True, changes=dict(SIZES)))
    return add_mtp_layer(checkpoint, tmp_path_factory.mktemp("invariant") / "moe")


def prefilled(folder: Path) -> ModelRunner:
    """By the references: it is decoding that has the same bits anywhere."""
    runner = new_runner(
        folder,
        dtype=str(DTYPES[1]).removeprefix("torch."),
        device=DEVICE,
        num_pages=12,
        num_slots=24,
    )
    for _, tensor in runner.tensors.fields():
        tensor.zero_()
    for one in sequences():
        runner.forward(
            [
                PrefillChunk(
                    token_ids=one.prompt,
                    start=0,
                    page_ids=one.pages,
                    slot_in=None,
                    slot_out=one.slot,
                )
            ]
        )
    return runner


@pytest.mark.slow
def test_a_models_logits_pages_and_states(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tokens of four sequences in one pass; then of one sequence token by token, and of
    another with three drafts, alone. So greedy tokens are the same with a batch of 1 and 4, and
    with 0 and 3 drafts."""
    monkeypatch.setattr(dispatch, "takes_kernels", lambda _: False)
    together, alone = prefilled(folder), prefilled(folder)
    monkeypatch.setattr(dispatch, "takes_kernels", lambda _: True)
    everyone = sequences()

    def chunk(one: Sequence, first: int, stop: int) -> DecodeChunk:
        return DecodeChunk(
            token_ids=one.answer[first:stop],
            start=len(one.prompt) + first,
            page_ids=one.pages,
            slot_in=one.slot + first,
            slots_out=one.slots_out(4)[first:stop],
        )

    logits = together.forward([chunk(one, 0, 4) for one in everyone]).view(4, 4, -1)

    single = [alone.forward([chunk(everyone[0], token, token + 1)]) for token in range(4)]
    assert torch.equal(torch.cat(single), logits[0])
    assert torch.equal(alone.forward([chunk(everyone[2], 0, 4)]), logits[2])
    for each, mine in alone.tensors.fields():
        theirs = together.tensors.of(each.group, each.layer)
        units = [unit for i in (0, 2) for unit in units_of(everyone[i], each.unit.name)]
        assert torch.equal(mine[units], theirs[units]), f"{each}"


def units_of(one: Sequence, unit: str) -> list[int]:
    return one.pages if unit == "PAGE" else [one.slot, *one.slots_out(4)]
