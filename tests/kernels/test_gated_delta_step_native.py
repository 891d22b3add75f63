"""The decode step in one call of C++ against its four operators, which have tests of their own."""

from __future__ import annotations

import pytest
import torch

from segue.kernels.gated_delta_step import gated_delta_step, native, reference
from segue.kernels.native import library
from tests.kernels.device import DEVICE
from tests.kernels.test_gated_delta_step_triton import (
    copies,
    in_rounds,
    inputs_of,
    memory_of,
    weights_of,
)

pytestmark = [
    pytest.mark.skipif(library.loaded() is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(DEVICE == "cuda", reason="C++ runs on a CPU"),
]

HEADS = [(16, 16, 128, 128), (2, 4, 16, 32)]
"""The first are those of 0.8B."""


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("round_sizes", [(1,), (5,), (3, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_has_the_bits_of_four_operators(
    heads: tuple[int, int, int, int], round_sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    inputs, weights = inputs_of(sum(round_sizes), heads, dtype), weights_of(heads)
    memory = memory_of(sum(round_sizes) + round_sizes[0], heads, dtype)
    theirs, where = copies(memory), in_rounds(round_sizes)
    expected = reference.gated_delta_step(*inputs, weights, *theirs, **where)

    for _ in range(2):  # The second call finds the scratch memory of the first.
        mine = copies(memory)
        out = native.gated_delta_step(*inputs, weights, *mine, **where)

        assert out.dtype is dtype
        assert torch.equal(out, expected)
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_a_slot_that_does_not_exist_changes_nothing() -> None:
    heads = HEADS[1]
    inputs, memory = inputs_of(2, heads, torch.float32), memory_of(4, heads, torch.float32)
    before, where = copies(memory), in_rounds((2,))
    where["slots_out_T"][1] = 4

    with pytest.raises(IndexError, match="out of range"):
        native.gated_delta_step(*inputs, weights_of(heads), *memory, **where)

    assert all(torch.equal(mine, past) for mine, past in zip(memory, before, strict=True))


def test_what_it_cannot_take_goes_to_the_reference() -> None:
    heads = (1, 1, 24, 8)
    inputs, memory = inputs_of(3, heads, torch.float32), memory_of(6, heads, torch.float32)
    theirs, where = copies(memory), in_rounds((3,))
    expected = reference.gated_delta_step(*inputs, weights_of(heads), *theirs, **where)

    out = gated_delta_step(*inputs, weights_of(heads), *memory, **where)

    assert torch.equal(out, expected)
    assert torch.equal(memory[0], theirs[0])
