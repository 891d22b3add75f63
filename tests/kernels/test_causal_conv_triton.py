"""The kernels against the reference, which has laws of its own in test_causal_conv.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.causal_conv import reference, triton, triton_decode
from tests.kernels.closeness import assert_close, cumulative, ints, randn
from tests.kernels.device import DEVICE, DTYPES
from tests.kernels.draft_rounds import ROUND_SIZES

SLOTS = 12


def inputs_of(
    num_tokens: int, num_channels: int = 37, width: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """x as a projection leaves it, whose rows are longer; weight; slots that hold something."""
    x = randn(num_tokens, num_channels + 5, dtype=dtype).to(DEVICE)[:, :num_channels]
    weight = randn(num_channels, width, seed=9, dtype=dtype).to(DEVICE)
    state = randn(SLOTS, num_channels, width - 1, seed=3, dtype=dtype).to(DEVICE)
    return x, weight, state


def compare_prefill(
    inputs: tuple[Tensor, Tensor, Tensor],
    sequences: list[list[int]],
    slots_in: list[int],
    slots_out: list[int],
) -> None:
    """`sequences`: the lengths of each one's segments."""
    x, weight, state = inputs
    where = {
        "cu_tokens_M1": cumulative([length for sequence in sequences for length in sequence]).to(
            DEVICE
        ),
        "slots_out_M": ints(*slots_out).to(DEVICE),
        "cu_segments_N1": cumulative([len(sequence) for sequence in sequences]).to(DEVICE),
        "slots_in_N": ints(*slots_in).to(DEVICE),
    }
    expected_state = state.clone()
    expected = reference.causal_conv_prefill(x, weight, expected_state, **where)

    out = triton.causal_conv_prefill(x, weight, state, **where)

    assert out.dtype is x.dtype
    if x.numel():
        assert_close(out, expected, x.dtype)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 31, 32, 33, 65])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt(num_tokens: int, dtype: torch.dtype) -> None:
    slot_in = NO_SLOT if num_tokens % 2 else 4

    compare_prefill(inputs_of(num_tokens, dtype=dtype), [[num_tokens]], [slot_in], [2])


def test_packed_sequences_with_segments_of_all_lengths() -> None:
    sequences = [[1, 1, 1], [40], [2, 30, 1], [1], [64]]

    slots_in, slots_out = [6, NO_SLOT, 11, NO_SLOT, NO_SLOT], [0, 1, 6, 2, 3, 4, 7, 5, 8]
    compare_prefill(inputs_of(141), sequences, slots_in, slots_out)


def test_a_prompt_may_end_where_it_began() -> None:
    compare_prefill(inputs_of(4), [[1, 1, 2]], [5], [5, 3, 4])
    compare_prefill(inputs_of(2), [[1], [1]], [5, 6], [5, 6])


@pytest.mark.parametrize(("num_channels", "width"), [(1, 2), (128, 3), (129, 4), (300, 5)])
def test_channels_and_widths(num_channels: int, width: int) -> None:
    compare_prefill(inputs_of(35, num_channels, width), [[33], [2]], [1, NO_SLOT], [2, 3])


def test_nothing_is_nothing() -> None:
    compare_prefill(inputs_of(0), [], [], [])


def test_more_sequences_than_are_looked_at_at_once() -> None:
    x, weight, _ = inputs_of(100, num_channels=3)
    state = randn(67, 3, 3, seed=3).to(DEVICE)

    compare_prefill((x, weight, state), [[1]] * 66 + [[34]], [NO_SLOT] * 67, [*range(67)])


@pytest.mark.parametrize("round_sizes", ROUND_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_verify(round_sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    num_tokens, num_sequences = sum(round_sizes), round_sizes[0]
    x, weight, state = inputs_of(num_tokens, num_channels=70, dtype=dtype)
    state = randn(num_tokens + num_sequences, 70, 3, seed=3, dtype=dtype).to(DEVICE)
    # The first sequence continues from a slot that its last token writes.
    slots_out = torch.arange(num_tokens)
    slots_in = torch.arange(num_tokens, num_tokens + num_sequences)
    slots_in[0] = sum(round_sizes[:-1])
    where = {"slots_in_D": slots_in.to(DEVICE), "round_sizes": round_sizes}
    expected_state = state.clone()
    expected = reference.causal_conv_decode(
        x, weight, expected_state, slots_out_T=slots_out.to(DEVICE), **where
    )

    out = triton_decode.causal_conv_decode(
        x, weight, state, slots_out_T=slots_out.to(DEVICE), **where
    )

    assert_close(out, expected, dtype)
    assert torch.equal(state, expected_state)


def test_a_row_without_a_slot_writes_none() -> None:
    x, weight, state = inputs_of(4)
    before = state.clone()

    triton_decode.causal_conv_decode(
        x,
        weight,
        state,
        slots_in_D=ints(3, 5).to(DEVICE),
        slots_out_T=ints(1, -1, 2, -1).to(DEVICE),
        round_sizes=(2, 2),
    )

    untouched = [slot for slot in range(SLOTS) if slot not in (1, 2)]
    assert torch.equal(state[untouched], before[untouched])
    assert torch.equal(state[2, :, 1:], x[[0, 2]].t())


def test_verify_after_a_prefill_is_the_whole_prompt() -> None:
    x, weight, state = inputs_of(40)
    whole = {"cu_segments_N1": ints(0, 1).to(DEVICE), "slots_in_N": ints(NO_SLOT).to(DEVICE)}
    expected = triton.causal_conv_prefill(
        x,
        weight,
        state,
        cu_tokens_M1=ints(0, 40).to(DEVICE),
        slots_out_M=ints(0).to(DEVICE),
        **whole,
    )

    triton.causal_conv_prefill(
        x[:37],
        weight,
        state,
        cu_tokens_M1=ints(0, 37).to(DEVICE),
        slots_out_M=ints(1).to(DEVICE),
        **whole,
    )
    out = triton_decode.causal_conv_decode(
        x[37:],
        weight,
        state,
        slots_in_D=ints(1).to(DEVICE),
        slots_out_T=ints(2, 1, 3).to(DEVICE),
        round_sizes=(1, 1, 1),
    )

    assert_close(out, expected[37:])
    assert torch.equal(state[3], state[0])


@pytest.mark.parametrize("round_sizes", [(), (4, 5), (4, 3, 1), (9, 0), (1,) * 9])
def test_sizes_that_are_no_draft_rounds_of_these_rows_are_refused(
    round_sizes: tuple[int, ...],
) -> None:
    x, weight, state = inputs_of(9)

    with pytest.raises(ValueError, match=r"that start with .* \(sequences\) and add up to"):
        triton_decode.causal_conv_decode(
            x,
            weight,
            state,
            slots_in_D=ints(1),
            slots_out_T=ints(1),
            round_sizes=round_sizes,
        )


def test_a_state_of_another_dtype_is_refused() -> None:
    x, weight, state = inputs_of(2)

    with pytest.raises(ValueError, match=r"dtype torch.float32, got torch.float16"):
        triton_decode.causal_conv_decode(
            x,
            weight,
            state.half(),
            slots_in_D=ints(1),
            slots_out_T=ints(1),
            round_sizes=(2,),
        )
