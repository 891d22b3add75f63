from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.gated_delta_rule import gated_delta_rule_decode, gated_delta_rule_prefill
from tests.kernels.closeness import assert_close, cumulative, ints, randn
from tests.kernels.draft_rounds import ROUND_SIZES, rows_of_sequences

pytestmark = pytest.mark.usefixtures("cpu_operators")

SLOTS = 6
HEADS = [(2, 4, 16, 24), (1, 3, 7, 5), (2, 2, 8, 8)]
"""Key heads, value heads, key and value dimension."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """q, k, v, log decay and rate of T tokens."""

    tensors: tuple[Tensor, ...]

    @classmethod
    def random(cls, num_tokens: int, heads: tuple[int, int, int, int], seed: int = 0) -> Inputs:
        num_k_heads, num_v_heads, k_dim, v_dim = heads
        q, k = (randn(num_tokens, num_k_heads, k_dim, seed=seed + i) for i in (0, 1))
        v = randn(num_tokens, num_v_heads, v_dim, seed=seed + 2)
        # From barely forgetting to forgetting all but e^-20 of a state in one token.
        log_decay = -F.softplus(randn(num_tokens, num_v_heads, seed=seed + 3) * 8)
        rate = randn(num_tokens, num_v_heads, seed=seed + 4).sigmoid()
        return cls((q, k, v, log_decay, rate))

    def rows(self, first: int, end: int) -> Inputs:
        return self.at(list(range(first, end)))

    def at(self, rows: list[int]) -> Inputs:
        return Inputs(tuple(tensor[rows] for tensor in self.tensors))


def new_state(heads: tuple[int, int, int, int], num_slots: int = SLOTS) -> Tensor:
    return torch.full((num_slots, *heads[1:]), torch.nan)


def token_by_token(inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
    """The rule as it is written down, in float64."""
    q, k, v, log_decay, rate = (tensor.double() for tensor in inputs.tensors)
    repeats = v.shape[1] // q.shape[1]
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q, k = (x.repeat_interleave(repeats, dim=1) for x in (q * q.shape[-1] ** -0.5, k))
    state, outputs = state.double().clone(), []
    for t in range(len(q)):
        state *= log_decay[t].exp()[:, None, None]
        recalled = torch.einsum("hkv,hk->hv", state, k[t])
        correction = (v[t] - recalled) * rate[t][:, None]
        state += torch.einsum("hk,hv->hkv", k[t], correction)
        outputs.append(torch.einsum("hkv,hk->hv", state, q[t]))
    return torch.stack(outputs), state


def run_prefill(
    inputs: Inputs, state: Tensor, lengths: list[int], slots_in: Tensor, slots_out: Tensor
) -> Tensor:
    return gated_delta_rule_prefill(
        *inputs.tensors,
        state,
        cu_tokens_M1=cumulative(lengths),
        slots_out_M=slots_out,
        cu_segments_N1=torch.arange(len(lengths) + 1),
        slots_in_N=slots_in,
    )


def run_decode(
    inputs: Inputs,
    state: Tensor,
    slots_in: Tensor,
    slots_out: Tensor,
    round_sizes: tuple[int, ...] = (),
) -> Tensor:
    return gated_delta_rule_decode(
        *inputs.tensors,
        state,
        slots_in_D=slots_in,
        slots_out_T=slots_out,
        round_sizes=round_sizes or (len(slots_in),),
    )


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("num_tokens", [1, 2, 63, 64, 65, 200])
def test_a_prompt_is_the_rule_token_by_token(
    num_tokens: int, heads: tuple[int, int, int, int]
) -> None:
    inputs, state = Inputs.random(num_tokens, heads), new_state(heads)

    out = run_prefill(inputs, state, [num_tokens], ints(NO_SLOT), ints(2))

    expected, last = token_by_token(inputs, torch.zeros(heads[1:]))
    assert_close(out, expected)
    assert_close(state[2], last)
    assert state[[0, 1, 3, 4, 5]].isnan().all()


@pytest.mark.parametrize("heads", HEADS)
def test_decode_is_the_rule_for_each_sequence_of_a_batch(heads: tuple[int, int, int, int]) -> None:
    inputs, state = Inputs.random(3, heads), new_state(heads)
    state[[0, 3]] = randn(2, *heads[1:], seed=7)
    before = state.clone()

    out = run_decode(inputs, state, ints(3, 0, 3), ints(1, 0, 5))

    for row, slot_in, slot_out in ((0, 3, 1), (1, 0, 0), (2, 3, 5)):
        expected, last = token_by_token(inputs.rows(row, row + 1), before[slot_in])
        assert_close(out[row : row + 1], expected)
        assert_close(state[slot_out], last)
    assert torch.equal(state[3], before[3])
    assert state[[2, 4]].isnan().all()


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("round_sizes", ROUND_SIZES)
def test_verify_is_the_rule_token_by_token_with_a_state_after_each(
    round_sizes: tuple[int, ...], heads: tuple[int, int, int, int]
) -> None:
    num_tokens, num_sequences = sum(round_sizes), round_sizes[0]
    inputs, state = (
        Inputs.random(num_tokens, heads),
        new_state(heads, num_tokens + num_sequences + 1),
    )
    state[:num_sequences] = randn(num_sequences, *heads[1:], seed=7)
    before = state.clone()
    slots_out = list(range(num_sequences + 1, num_sequences + 1 + num_tokens))
    # The longest sequence writes, last of all, what it read first; the shortest at once.
    slots_out[-1], slots_out[num_sequences - 1] = 0, num_sequences - 1 or slots_out[0]

    slots_in = ints(*range(num_sequences))
    out = run_decode(inputs, state, slots_in, ints(*slots_out), round_sizes)

    for d, rows in enumerate(rows_of_sequences(round_sizes)):
        for j, row in enumerate(rows):
            expected, last = token_by_token(inputs.at(rows[: j + 1]), before[d])
            assert_close(out[row], expected[-1])
            assert_close(state[slots_out[row]], last)
    untouched = sorted(set(range(len(state))) - set(slots_out))
    assert torch.equal(state[untouched].nan_to_num(), before[untouched].nan_to_num())


def test_verify_is_decode_of_its_tokens_one_after_another() -> None:
    heads, round_sizes = HEADS[0], (3, 2, 2)
    inputs, state = Inputs.random(7, heads), new_state(heads, 10)
    state[:3] = randn(3, *heads[1:], seed=7)
    one_by_one = state.clone()

    out = run_decode(inputs, state, ints(0, 1, 2), ints(*range(3, 10)), round_sizes)

    for d, rows in enumerate(rows_of_sequences(round_sizes)):
        slot = d
        for row in rows:
            alone = run_decode(inputs.at([row]), one_by_one, ints(slot), ints(3 + row))
            slot = 3 + row
            assert_close(out[row], alone[0])
    assert_close(state, one_by_one)


def test_packed_sequences_are_each_sequence_alone() -> None:
    heads, lengths = HEADS[0], [5, 1, 64, 130]
    inputs, state = Inputs.random(sum(lengths), heads), new_state(heads)
    state[4] = randn(*heads[1:], seed=7)
    before = state.clone()

    slots_in = [NO_SLOT, NO_SLOT, 4, NO_SLOT]
    out = run_prefill(inputs, state, lengths, ints(*slots_in), ints(0, 1, 2, 3))

    ends = cumulative(lengths).tolist()
    for n, slot_in in enumerate(slots_in):
        alone = inputs.rows(ends[n], ends[n + 1])
        past = torch.zeros(heads[1:]) if slot_in == NO_SLOT else before[slot_in]
        expected, last = token_by_token(alone, past)
        assert_close(out[ends[n] : ends[n + 1]], expected)
        assert_close(state[n], last)
    assert torch.equal(state[4], before[4])


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefill_in_chunks_and_decode_are_the_whole_prompt(chunk: int) -> None:
    heads = HEADS[0]
    inputs, whole_state, state = Inputs.random(150, heads), new_state(heads), new_state(heads)
    whole = run_prefill(inputs, whole_state, [150], ints(NO_SLOT), ints(0))

    parts = [run_prefill(inputs.rows(0, chunk), state, [chunk], ints(NO_SLOT), ints(0))]
    for first in range(chunk, 140, chunk):
        end = min(first + chunk, 140)
        parts.append(run_prefill(inputs.rows(first, end), state, [end - first], ints(0), ints(0)))
    parts += [run_decode(inputs.rows(t, t + 1), state, ints(0), ints(0)) for t in range(140, 150)]

    assert_close(torch.cat(parts), whole)
    assert_close(state[0], whole_state[0])


def test_inputs_in_bfloat16_are_computed_in_float32() -> None:
    heads, state, rounded_state = HEADS[0], new_state(HEADS[0]), new_state(HEADS[0])
    q, k, v, log_decay, rate = Inputs.random(70, heads).tensors
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()

    rounded = Inputs((q, k, v, log_decay, rate))
    out = run_prefill(rounded, rounded_state, [70], ints(NO_SLOT), ints(0))

    as_float32 = Inputs((q.float(), k.float(), v.float(), log_decay, rate))
    expected = run_prefill(as_float32, state, [70], ints(NO_SLOT), ints(0))
    assert out.dtype is torch.float32
    assert torch.equal(out, expected)
    verified = [
        run_decode(tokens.rows(0, 5), slots, ints(0), ints(1, 2, 3, 4, 5), (1,) * 5)
        for tokens, slots in ((rounded, rounded_state), (as_float32, state))
    ]
    assert verified[0].dtype is torch.float32
    assert torch.equal(*verified)
