from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.causal_conv import causal_conv_prompts, causal_conv_steps
from tests.kernels.closeness import assert_close, cumulative, ints, randn

CHANNELS, WIDTH, SLOTS = 37, 4, 6
WEIGHT = randn(CHANNELS, WIDTH, seed=9)


def new_state(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((SLOTS, CHANNELS, WIDTH - 1), torch.nan, dtype=dtype)


def expected_of(x: Tensor, past: Tensor) -> Tensor:
    """The textbook: a grouped convolution over past and present inputs."""
    inputs = torch.cat([past, x.double().t()], dim=1)
    return F.silu(F.conv1d(inputs[None], WEIGHT.double()[:, None], groups=CHANNELS))[0].t()


def run_prompts(
    x: Tensor, state: Tensor, lengths: list[int], slots_in: Tensor, slots_out: Tensor
) -> Tensor:
    return causal_conv_prompts(
        x,
        WEIGHT,
        state,
        cu_tokens_M1=cumulative(lengths),
        slots_out_M=slots_out,
        cu_segments_N1=torch.arange(len(lengths) + 1),
        slots_in_N=slots_in,
    )


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 63, 65])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_from_nothing_is_the_padded_convolution(
    num_tokens: int, dtype: torch.dtype
) -> None:
    x, state = randn(num_tokens, CHANNELS, dtype=dtype), new_state(dtype)

    out = run_prompts(x, state, [num_tokens], ints(NO_SLOT), ints(2))

    assert out.dtype is dtype
    assert_close(out, expected_of(x, torch.zeros(CHANNELS, WIDTH - 1).double()), dtype)


def test_packed_prompts_are_each_prompt_alone() -> None:
    lengths, state = [5, 1, 64, 2], new_state()
    state[4] = randn(CHANNELS, WIDTH - 1, seed=3)
    pasts = [torch.zeros(CHANNELS, WIDTH - 1), torch.zeros(CHANNELS, WIDTH - 1), state[4].clone()]
    x = randn(sum(lengths), CHANNELS)
    slots_in, slots_out = ints(NO_SLOT, NO_SLOT, 4, NO_SLOT), ints(0, 1, 2, 3)

    out = run_prompts(x, state, lengths, slots_in, slots_out)

    parts = zip(out.split(lengths), x.split(lengths), [*pasts, pasts[0]], strict=True)
    for part, inputs, past in parts:
        assert_close(part, expected_of(inputs, past.double()))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_and_steps_are_the_whole_prompt(chunk: int) -> None:
    x, whole_state, state = randn(21, CHANNELS), new_state(), new_state()
    whole = run_prompts(x, whole_state, [21], ints(NO_SLOT), ints(0))

    parts = [run_prompts(x[:chunk], state, [chunk], ints(NO_SLOT), ints(0))]
    for first in range(chunk, 14, chunk):
        part = x[first : min(first + chunk, 14)]
        parts.append(run_prompts(part, state, [len(part)], ints(0), ints(0)))
    for row in x[14:, None]:
        parts.append(causal_conv_steps(row, WEIGHT, state, slots_in_D=ints(0), slots_out_D=ints(0)))

    assert_close(torch.cat(parts), whole)
    assert torch.equal(state[0], whole_state[0])


def test_batched_steps_read_one_slot_and_write_another() -> None:
    state = new_state()
    state[[0, 3]] = randn(2, CHANNELS, WIDTH - 1, seed=3)
    before, x = state.clone(), randn(3, CHANNELS)

    out = causal_conv_steps(x, WEIGHT, state, slots_in_D=ints(3, 0, 3), slots_out_D=ints(1, 0, 5))

    for row, slot_in, slot_out in ((0, 3, 1), (1, 0, 0), (2, 3, 5)):
        assert_close(out[row : row + 1], expected_of(x[row : row + 1], before[slot_in].double()))
        assert torch.equal(state[slot_out, :, :-1], before[slot_in, :, 1:])
        assert torch.equal(state[slot_out, :, -1], x[row])
    assert torch.equal(state[3], before[3])
    assert state[[2, 4]].isnan().all()
