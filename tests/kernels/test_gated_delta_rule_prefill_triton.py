"""The kernels for prefill against the reference, which has laws of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.gated_delta_rule import reference, triton_prefill
from segue.kernels.gated_delta_rule.triton_parts import Cut, cut_for
from segue.kernels.gated_delta_rule.triton_scan import scan_stages
from tests.kernels.closeness import assert_close, cumulative, ints
from tests.kernels.delta_inputs import HEADS, Heads, inputs_of, new_state
from tests.kernels.device import DEVICE, DTYPES


def compare(
    inputs: tuple[Tensor, ...],
    state: Tensor,
    sequences: list[list[int]],
    slots_in: list[int],
    slots_out: list[int],
) -> None:
    """`sequences`: the lengths of each one's segments."""
    where = {
        "cu_tokens_M1": cumulative([length for sequence in sequences for length in sequence]).to(
            DEVICE
        ),
        "slots_out_M": ints(*slots_out).to(DEVICE),
        "cu_segments_N1": cumulative([len(sequence) for sequence in sequences]).to(DEVICE),
        "slots_in_N": ints(*slots_in).to(DEVICE),
    }
    before, expected_state = state.clone(), state.clone()
    expected = reference.gated_delta_rule_prefill(*inputs, expected_state, **where)

    out = triton_prefill.gated_delta_rule_prefill(*inputs, state, **where)

    assert out.dtype is torch.float32
    assert_close(out, expected, inputs[0].dtype)
    assert_close(state, expected_state, inputs[0].dtype)
    untouched = sorted(set(range(len(state))) - set(slots_out))
    assert torch.equal(state[untouched], before[untouched])


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("num_tokens", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt(num_tokens: int, heads: Heads, dtype: torch.dtype) -> None:
    slot_in = NO_SLOT if num_tokens % 2 else 4

    compare(inputs_of(num_tokens, heads, dtype), new_state(heads), [[num_tokens]], [slot_in], [2])


def test_packed_sequences_with_segments_of_all_lengths() -> None:
    sequences = [[5, 1, 64], [1], [3, 66], [130]]
    slots_in, slots_out = [9, NO_SLOT, 10, NO_SLOT], [0, 1, 2, 3, 4, 5, 6]

    compare(inputs_of(270, HEADS[0]), new_state(HEADS[0]), sequences, slots_in, slots_out)


def test_a_prompt_may_end_where_it_began() -> None:
    sequences, slots_in, slots_out = [[5, 3], [2, 2]], [6, 7], [1, 6, 7, 2]

    compare(inputs_of(12, HEADS[0]), new_state(HEADS[0]), sequences, slots_in, slots_out)


@pytest.mark.parametrize("log_decay", [0.0, -1e-6, -50.0, -1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_and_nothing_may_be_forgotten(log_decay: float, dtype: torch.dtype) -> None:
    q, k, v, log_decays, rate = inputs_of(80, HEADS[0], dtype)
    inputs = (q, k, v, torch.full_like(log_decays, log_decay), rate)

    compare(inputs, new_state(HEADS[0]), [[80]], [9], [2])


def test_keys_that_all_say_the_same_are_solved_for() -> None:
    q, k, v, log_decays, rate = inputs_of(64, HEADS[0])
    inputs = (q, k[:1].expand_as(k) * 3, v, log_decays * 1e-3, torch.ones_like(rate))

    compare(inputs, new_state(HEADS[0]), [[64]], [9], [2])


def test_keys_and_values_of_zero_are_no_news() -> None:
    q, k, v, log_decays, rate = inputs_of(64, HEADS[0])
    inputs = (q, torch.zeros_like(k), torch.zeros_like(v), log_decays, rate)

    compare(inputs, new_state(HEADS[0]), [[64]], [9], [2])


def test_nothing_is_nothing() -> None:
    state = new_state(HEADS[0])
    before = state.clone()

    out = triton_prefill.gated_delta_rule_prefill(
        *inputs_of(0, HEADS[0]),
        state,
        cu_tokens_M1=ints(0).to(DEVICE),
        slots_out_M=ints().to(DEVICE),
        cu_segments_N1=ints(0).to(DEVICE),
        slots_in_N=ints().to(DEVICE),
    )

    assert out.shape == (0, 2, 32)
    assert torch.equal(state, before)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def cut(num_parts: int) -> None:
        monkeypatch.setattr(triton_prefill, "cut_for", lambda *_, **__: Cut(16, num_parts))

    return cut


@pytest.mark.parametrize("num_parts", [2, pytest.param(3, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("heads", HEADS)
def test_a_prompt_in_parts(num_parts: int, heads: Heads, in_parts: Callable[[int], None]) -> None:
    """The last of five parts has no chunk."""
    in_parts(num_parts)

    compare(inputs_of(250, heads), new_state(heads), [[250]], [4], [2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_in_parts_is_as_exact(dtype: torch.dtype, in_parts: Callable[[int], None]) -> None:
    in_parts(4)

    compare(inputs_of(400, HEADS[0], dtype), new_state(HEADS[0]), [[400]], [NO_SLOT], [2])


def test_packed_sequences_in_parts_end_their_segments(in_parts: Callable[[int], None]) -> None:
    in_parts(3)
    sequences = [[5, 64], [1], [3, 66, 130], [130]]
    slots_in, slots_out = [9, 10, NO_SLOT, 3], [9, 1, 2, 4, 5, 6, 3]

    compare(inputs_of(399, HEADS[0]), new_state(HEADS[0]), sequences, slots_in, slots_out)


def slow_decay(num_tokens: int) -> tuple[Tensor, ...]:
    """So that a state reaches through all parts."""
    q, k, v, log_decays, rate = inputs_of(num_tokens, HEADS[0])
    return q, k, v, log_decays * 1e-4, rate


def test_what_is_kept_reaches_through_all_parts(in_parts: Callable[[int], None]) -> None:
    in_parts(4)
    inputs = slow_decay(256)
    far = new_state(HEADS[0]) * 100

    compare(inputs, far, [[256]], [4], [2])
    forgotten = new_state(HEADS[0]) * 100
    compare(inputs, forgotten, [[256]], [NO_SLOT], [2])
    assert (far[2] - forgotten[2]).abs().max() > 1.0


@pytest.mark.parametrize(("num_states", "expected"), [(16, 16), (28, 32), (32, 32), (128, 32)])
def test_few_states_are_cut_into_more_blocks(num_states: int, expected: int) -> None:
    cut = cut_for(15, num_states=num_states, num_programs=132, k_dim=128, v_dim=128)

    assert cut == Cut(expected)


@pytest.mark.parametrize(
    ("num_chunks", "num_states", "expected"),
    [
        (128, 8, Cut(32, 3)),  # 397B on eight ranks: 0.54 of the chain.
        (800, 8, Cut(32, 3)),
        (12, 8, Cut(16)),  # Parts would be short.
        (128, 4, Cut(32, 8)),
        (128, 16, Cut(32, 2)),  # 0.8B
        (128, 32, Cut(32)),  # 9B fills the chip.
        (128, 64, Cut(32)),
    ],
)
def test_long_chains_of_few_heads_are_cut_into_parts(
    num_chunks: int, num_states: int, expected: Cut
) -> None:
    cut = cut_for(num_chunks, num_states=num_states, num_programs=132, k_dim=128, v_dim=128)

    assert cut == expected


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), 3), ((10, 0), 3), ((10, 3), 1)])
def test_loads_are_not_pipelined_where_triton_may_race(
    capability: tuple[int, int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert scan_stages(torch.device("cuda")) == expected


def test_heads_that_tensor_cores_cannot_multiply_are_refused() -> None:
    heads = (1, 2, 24, 32)

    with pytest.raises(ValueError, match="powers of two from 16 on, got 24 and 32"):
        compare(inputs_of(3, heads), new_state(heads), [[3]], [9], [2])
