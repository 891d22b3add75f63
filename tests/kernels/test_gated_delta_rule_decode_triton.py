"""The kernel for decode against the reference, which has laws of its own."""

from __future__ import annotations

import pytest
import torch

from segue.kernels.gated_delta_rule import reference, triton_decode, triton_prefill
from tests.kernels.closeness import assert_close, ints, randn
from tests.kernels.delta_inputs import HEADS, SLOTS, Heads, inputs_of, new_state
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.draft_rounds import ROUND_SIZES


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("round_sizes", ROUND_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_verify(round_sizes: tuple[int, ...], heads: Heads, dtype: torch.dtype) -> None:
    num_tokens, num_sequences = sum(round_sizes), round_sizes[0]
    inputs = inputs_of(num_tokens, heads, dtype)
    state = randn(num_tokens + num_sequences, *heads[1:], seed=7).to(DEVICE)
    # The first sequence continues from a slot that its last token writes.
    slots_in = torch.arange(num_tokens, num_tokens + num_sequences)
    slots_in[0] = sum(round_sizes[:-1])
    where = {
        "slots_in_D": slots_in.to(DEVICE),
        "slots_out_T": torch.arange(num_tokens).to(DEVICE),
        "round_sizes": round_sizes,
    }
    before, expected_state = state.clone(), state.clone()
    expected = reference.gated_delta_rule_decode(*inputs, expected_state, **where)

    out = triton_decode.gated_delta_rule_decode(*inputs, state, **where)

    # Whatever the dtype of the inputs, everything is computed in float32.
    assert_close(out, expected)
    assert_close(state, expected_state)
    assert torch.equal(state[num_tokens:], before[num_tokens:])


def test_a_row_without_a_slot_writes_none() -> None:
    inputs, state = inputs_of(4, HEADS[0]), new_state(HEADS[0])
    before, expected_state = state.clone(), state.clone()
    where = {"slots_in_D": ints(3, 5).to(DEVICE), "round_sizes": (2, 2)}
    reference.gated_delta_rule_decode(
        *inputs, expected_state, slots_out_T=ints(1, 8, 2, 9).to(DEVICE), **where
    )

    triton_decode.gated_delta_rule_decode(
        *inputs, state, slots_out_T=ints(1, -1, 2, -1).to(DEVICE), **where
    )

    assert_close(state[[1, 2]], expected_state[[1, 2]])
    untouched = [slot for slot in range(SLOTS) if slot not in (1, 2)]
    assert torch.equal(state[untouched], before[untouched])


@pytest.mark.parametrize("log_decay", [0.0, -1e-6, -50.0, -1e4])
def test_everything_and_nothing_may_be_forgotten(log_decay: float) -> None:
    q, k, v, log_decays, rate = inputs_of(3, HEADS[0])
    inputs, state = (q, k, v, torch.full_like(log_decays, log_decay), rate), new_state(HEADS[0])
    where = {
        "slots_in_D": ints(3).to(DEVICE),
        "slots_out_T": ints(1, 3, 2).to(DEVICE),
        "round_sizes": (1, 1, 1),
    }
    expected_state = state.clone()
    expected = reference.gated_delta_rule_decode(*inputs, expected_state, **where)

    out = triton_decode.gated_delta_rule_decode(*inputs, state, **where)

    assert_close(out, expected)
    assert_close(state, expected_state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_verify_after_a_prefill_is_the_whole_prompt(dtype: torch.dtype) -> None:
    inputs, state = inputs_of(70, HEADS[0], dtype), new_state(HEADS[0])
    prompt = {"cu_segments_N1": ints(0, 1).to(DEVICE), "slots_in_N": ints(4).to(DEVICE)}
    whole = triton_prefill.gated_delta_rule_prefill(
        *inputs,
        state,
        cu_tokens_M1=ints(0, 70).to(DEVICE),
        slots_out_M=ints(0).to(DEVICE),
        **prompt,
    )

    triton_prefill.gated_delta_rule_prefill(
        *(x[:66] for x in inputs),
        state,
        cu_tokens_M1=ints(0, 66).to(DEVICE),
        slots_out_M=ints(1).to(DEVICE),
        **prompt,
    )
    out = triton_decode.gated_delta_rule_decode(
        *(x[66:] for x in inputs),
        state,
        slots_in_D=ints(1).to(DEVICE),
        slots_out_T=ints(2, 3, 1, 5).to(DEVICE),
        round_sizes=(1, 1, 1, 1),
    )

    assert_close(out, whole[66:], dtype)
    assert_close(state[5], state[0], dtype)
