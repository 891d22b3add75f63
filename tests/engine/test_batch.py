from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from segue.engine.batch import SequenceChunk, pack
from segue.kernels import NO_SLOT
from segue.model.batch import Batch


def chunk(
    tokens: Sequence[int], start: int, pages: Sequence[int], slot_in: int | None, slot_out: int
) -> SequenceChunk:
    return SequenceChunk(
        token_ids=tokens, start=start, page_ids=pages, slot_in=slot_in, slot_out=slot_out
    )


def packed(*chunks: SequenceChunk) -> Batch:
    return pack(chunks, page_tokens=4, device="cpu")


def test_steps_come_first_and_last_rows_keep_the_callers_order() -> None:
    batch = packed(
        chunk([10, 11, 12], 3, [5, 6], 0, 0),
        chunk([20], 9, [7, 8, 9], 1, 1),
        chunk([30], 0, [2], None, 2),
    )

    assert batch.num_steps == 1
    assert batch.token_ids_T.tolist() == [20, 10, 11, 12, 30]
    assert batch.positions_T.tolist() == [9, 3, 4, 5, 0]
    assert batch.last_rows_B.tolist() == [3, 0, 4]


def test_each_token_has_its_place_in_the_pages() -> None:
    batch = packed(chunk([10, 11, 12], 3, [5, 6], 0, 0), chunk([20], 9, [7, 8, 9], 1, 1))

    assert batch.pages_T.tolist() == [9, 5, 6, 6]
    assert batch.offsets_T.tolist() == [1, 3, 0, 1]


def test_steps_name_slots_lengths_and_pages() -> None:
    steps = packed(chunk([1], 9, [7, 8, 9, 3], 1, 4), chunk([2], 3, [5], 0, 0)).steps

    assert steps is not None
    assert steps.slots_in_D.tolist() == [1, 0]
    assert steps.slots_out_D.tolist() == [4, 0]
    assert steps.lengths_D.tolist() == [10, 4]
    # Of the first row's four pages three are needed; the second repeats its own.
    assert steps.page_table_DP.tolist() == [[7, 8, 9], [5, 5, 5]]


def test_prompts_name_bounds_starts_and_slots() -> None:
    batch = packed(chunk([1, 2], 4, [7, 8], 1, 4), chunk([3], 0, [5], None, 0))

    assert batch.steps is None
    assert batch.prompts is not None
    assert batch.prompts.cu_tokens_N1.tolist() == [0, 2, 3]
    assert batch.prompts.starts_N.tolist() == [4, 0]
    assert batch.prompts.segments.slots_in_M.tolist() == [1, NO_SLOT]
    assert batch.prompts.segments.slots_out_M.tolist() == [4, 0]


def test_a_prompt_is_cut_into_segments_where_states_are_kept() -> None:
    whole = chunk([1, 2, 3, 4, 5], 4, [7, 8, 9], 1, 4)
    batch = packed(replace(whole, checkpoints=[(6, 2), (8, 3)]), chunk([3], 0, [5], None, 0))

    assert batch.prompts is not None
    assert batch.prompts.cu_tokens_N1.tolist() == [0, 5, 6]
    segments = batch.prompts.segments
    assert segments.cu_tokens_M1.tolist() == [0, 2, 4, 5, 6]
    assert segments.slots_in_M.tolist() == [1, 2, 3, NO_SLOT]
    assert segments.slots_out_M.tolist() == [2, 3, 4, 0]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk([], 0, [0], None, 0)],
        [chunk([1], 4, [0], 0, 0)],
        [chunk([1], 4, [0, 1], None, 0)],
        [chunk([1], 0, [0], 0, 0)],
        [chunk([1], 0, [0], None, 0), chunk([1], 0, [1], None, 0)],
        [chunk([1], 0, [0], None, 0), chunk([1], 1, [1], 0, 1)],
        [replace(chunk([1, 2], 0, [0], None, 0), checkpoints=[(1, 0)])],
        [replace(chunk([1, 2], 0, [0], None, 0), checkpoints=[(2, 1)])],
    ],
    ids=[
        "no chunk",
        "no token",
        "too few pages",
        "no state in the middle",
        "a state at the start",
        "a slot written twice",
        "a slot read and written",
        "a state kept in the slot of the chunk's end",
        "a state kept outside the chunk",
    ],
)
def test_a_broken_promise_of_the_scheduler_stops_the_batch(chunks: list[SequenceChunk]) -> None:
    with pytest.raises(AssertionError):
        packed(*chunks)
