from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.api.types import SlotId
from segue.engine.batch import MAX_VERIFY_TOKENS
from segue.engine.speculation.acceptance import SlotRing, num_accepted, num_simulated


def ring(num_slots: int, num_tokens: int) -> SlotRing:
    slots = tuple(SlotId(10 + i) for i in range(num_slots))
    return SlotRing(slots=slots, state=slots[0], num_tokens=num_tokens)


@pytest.mark.parametrize(
    ("drafts", "targets", "expected"),
    [
        ([], [5], 0),
        ([5], [5, 6], 1),
        ([4], [5, 6], 0),
        ([5, 6, 7], [5, 6, 7, 8], 3),
        ([5, 9, 7], [5, 6, 7, 8], 1),
    ],
)
def test_drafts_count_until_the_first_wrong_one(
    drafts: list[int], targets: list[int], expected: int
) -> None:
    assert num_accepted(drafts, targets) == expected


def test_targets_must_be_one_more_than_drafts() -> None:
    with pytest.raises(AssertionError):
        num_accepted([5], [5])


def test_two_slots_alternate_at_page_boundaries_and_stay_in_place_between() -> None:
    current = ring(2, 2)

    written = []
    for _ in range(9):
        (slot,) = current.outputs(1)
        current = current.after([slot], 1, page_tokens=4)
        written.append((current.num_tokens, slot, current.checkpoint))

    assert written == [
        (3, 10, None),
        (4, 10, 10),
        (5, 11, 10),
        (6, 11, 10),
        (7, 11, 10),
        (8, 11, 11),
        (9, 10, 11),
        (10, 10, 11),
        (11, 10, 11),
    ]


def test_a_ring_of_one_slot_has_no_checkpoint() -> None:
    current = ring(1, 3)

    current = current.after(current.outputs(1), 1, page_tokens=4)

    assert current.checkpoint is None
    assert current.outputs(1) == (10,)
    assert current.max_chunk_tokens == 1


@given(
    num_slots=st.integers(2, 10),
    page_tokens=st.integers(1, 20),
    start=st.integers(1, 40),
    starts_on_checkpoint=st.booleans(),
    steps=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40),
)
def test_a_ring_reads_valid_states_and_never_writes_its_checkpoint(
    num_slots: int,
    page_tokens: int,
    start: int,
    starts_on_checkpoint: bool,
    steps: list[tuple[int, int]],
) -> None:
    """Slots hold the tokens that they were written after. A wrong draft is -1."""
    history = list(range(start))
    current = ring(num_slots, start)
    if starts_on_checkpoint:
        current = current.with_checkpoint(current.state, start)
    contents = {current.state: list(history)}
    for num_drafts, num_right in steps:
        num_tokens = min(num_drafts + 1, current.max_chunk_tokens)
        num_certain = min(num_right + 1, num_tokens)
        outputs = current.outputs(num_tokens)
        true = list(range(len(history), len(history) + num_certain))

        assert len(set(outputs)) == num_tokens
        assert set(outputs) <= set(current.slots) - {current.checkpoint}
        read = contents[current.state]
        verified = [*true, *[-1] * (num_tokens - num_certain)]
        for j, slot in enumerate(outputs):
            contents[slot] = [*read, *verified[: j + 1]]
        current = current.after(outputs, num_certain, page_tokens)
        history += true

        assert current.max_chunk_tokens >= min(num_slots - 1, MAX_VERIFY_TOKENS)
        assert current.num_tokens == len(history)
        assert contents[current.state] == history
        boundary = len(history) // page_tokens * page_tokens
        if current.checkpoint is not None:
            assert contents[current.checkpoint] == history[: current.checkpoint_tokens]
        if boundary > start:
            assert current.checkpoint_tokens == boundary


def test_simulated_acceptance_has_the_requested_rate_and_is_repeatable() -> None:
    counts = [num_simulated(4, rate=0.8, seed=7, position=10 * i) for i in range(3000)]
    again = [num_simulated(4, rate=0.8, seed=7, position=10 * i) for i in range(300)]
    other = [num_simulated(4, rate=0.8, seed=8, position=10 * i) for i in range(300)]

    assert counts[:300] == again != other
    for depth in range(1, 5):
        share = sum(count >= depth for count in counts) / len(counts)
        assert share == pytest.approx(0.8**depth, abs=0.03)


def test_a_simulated_position_is_accepted_or_not_regardless_of_its_step() -> None:
    """Otherwise acceptance would depend on k."""
    whole = num_simulated(7, rate=0.9, seed=1, position=100)

    assert 0 < whole < 7
    for start in range(whole + 1):
        rest = num_simulated(7 - start, rate=0.9, seed=1, position=100 + start)
        assert rest == whole - start


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 7)])
def test_simulated_rates_at_the_ends_are_certain(rate: float, expected: int) -> None:
    assert {num_simulated(7, rate=rate, seed=0, position=i) for i in range(500)} == {expected}
