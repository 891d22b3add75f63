from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.causal_conv import causal_conv_decode, causal_conv_prefill
from tests.kernels.closeness import assert_close, cumulative, ints, randn
from tests.kernels.draft_rounds import ROUND_SIZES, rows_of_sequences

pytestmark = pytest.mark.usefixtures("cpu_operators")

CHANNELS, WIDTH, SLOTS = 37, 4, 6
WEIGHT = randn(CHANNELS, WIDTH, seed=9)


def new_state(dtype: torch.dtype = torch.float32, num_slots: int = SLOTS) -> Tensor:
    return torch.full((num_slots, CHANNELS, WIDTH - 1), torch.nan, dtype=dtype)


def expected_of(x: Tensor, past: Tensor) -> Tensor:
    """The textbook: a grouped convolution over past and present inputs."""
    inputs = torch.cat([past, x.double().t()], dim=1)
    return F.silu(F.conv1d(inputs[None], WEIGHT.double()[:, None], groups=CHANNELS))[0].t()


def run_prefill(
    x: Tensor, state: Tensor, lengths: list[int], slots_in: Tensor, slots_out: Tensor
) -> Tensor:
    return causal_conv_prefill(
        x,
        WEIGHT,
        state,
        cu_tokens_M1=cumulative(lengths),
        slots_out_M=slots_out,
        cu_segments_N1=torch.arange(len(lengths) + 1),
        slots_in_N=slots_in,
    )


def run_decode(
    x: Tensor,
    state: Tensor,
    slots_in: Tensor,
    slots_out: Tensor,
    round_sizes: tuple[int, ...] = (),
) -> Tensor:
    return causal_conv_decode(
        x,
        WEIGHT,
        state,
        slots_in_D=slots_in,
        slots_out_T=slots_out,
        round_sizes=round_sizes or (len(slots_in),),
    )


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 63, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_from_nothing_is_the_padded_convolution(
    num_tokens: int, dtype: torch.dtype
) -> None:
    x, state = randn(num_tokens, CHANNELS, dtype=dtype), new_state(dtype)

    out = run_prefill(x, state, [num_tokens], ints(NO_SLOT), ints(2))

    assert out.dtype is dtype
    assert_close(out, expected_of(x, torch.zeros(CHANNELS, WIDTH - 1).double()), dtype)


def test_packed_sequences_are_each_sequence_alone() -> None:
    lengths, state = [5, 1, 64, 2], new_state()
    state[4] = randn(CHANNELS, WIDTH - 1, seed=3)
    pasts = [torch.zeros(CHANNELS, WIDTH - 1), torch.zeros(CHANNELS, WIDTH - 1), state[4].clone()]
    x = randn(sum(lengths), CHANNELS)
    slots_in, slots_out = ints(NO_SLOT, NO_SLOT, 4, NO_SLOT), ints(0, 1, 2, 3)

    out = run_prefill(x, state, lengths, slots_in, slots_out)

    parts = zip(out.split(lengths), x.split(lengths), [*pasts, pasts[0]], strict=True)
    for part, inputs, past in parts:
        assert_close(part, expected_of(inputs, past.double()))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_prefill_in_chunks_and_decode_are_the_whole_prompt(chunk: int) -> None:
    x, whole_state, state = randn(21, CHANNELS), new_state(), new_state()
    whole = run_prefill(x, whole_state, [21], ints(NO_SLOT), ints(0))

    parts = [run_prefill(x[:chunk], state, [chunk], ints(NO_SLOT), ints(0))]
    for first in range(chunk, 14, chunk):
        part = x[first : min(first + chunk, 14)]
        parts.append(run_prefill(part, state, [len(part)], ints(0), ints(0)))
    for row in x[14:, None]:
        parts.append(run_decode(row, state, ints(0), ints(0)))

    assert_close(torch.cat(parts), whole)
    assert torch.equal(state[0], whole_state[0])


def test_batched_decode_reads_one_slot_and_writes_another() -> None:
    state = new_state()
    state[[0, 3]] = randn(2, CHANNELS, WIDTH - 1, seed=3)
    before, x = state.clone(), randn(3, CHANNELS)

    out = run_decode(x, state, ints(3, 0, 3), ints(1, 0, 5))

    for row, slot_in, slot_out in ((0, 3, 1), (1, 0, 0), (2, 3, 5)):
        assert_close(out[row : row + 1], expected_of(x[row : row + 1], before[slot_in].double()))
        assert torch.equal(state[slot_out, :, :-1], before[slot_in, :, 1:])
        assert torch.equal(state[slot_out, :, -1], x[row])
    assert torch.equal(state[3], before[3])
    assert state[[2, 4]].isnan().all()


@pytest.mark.parametrize("round_sizes", ROUND_SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_verify_is_the_convolution_with_its_inputs_after_each_token(
    round_sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    num_tokens, num_sequences = sum(round_sizes), round_sizes[0]
    x, state = (
        randn(num_tokens, CHANNELS, dtype=dtype),
        new_state(dtype, num_tokens + num_sequences + 1),
    )
    state[:num_sequences] = randn(num_sequences, CHANNELS, WIDTH - 1, seed=3, dtype=dtype)
    before = state.clone()
    slots_out = list(range(num_sequences + 1, num_sequences + 1 + num_tokens))
    # The longest sequence writes, last of all, what it read first; the shortest at once.
    slots_out[-1], slots_out[num_sequences - 1] = 0, num_sequences - 1 or slots_out[0]

    slots_in = ints(*range(num_sequences))
    out = run_decode(x, state, slots_in, ints(*slots_out), round_sizes)

    assert out.dtype is dtype
    for d, rows in enumerate(rows_of_sequences(round_sizes)):
        assert_close(out[rows], expected_of(x[rows], before[d].double()), dtype)
        inputs = torch.cat([before[d], x[rows].t()], dim=1)
        for j, row in enumerate(rows):
            assert torch.equal(state[slots_out[row]], inputs[:, j + 1 : j + WIDTH])
    untouched = sorted(set(range(len(state))) - set(slots_out))
    assert torch.equal(state[untouched].nan_to_num(), before[untouched].nan_to_num())
