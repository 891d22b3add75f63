from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from segue.engine.batch import Chunk, DecodeChunk, PrefillChunk
from segue.engine.packing import pack
from segue.kernels import NO_SLOT
from segue.model.batch import Batch


def prefill_chunk(
    tokens: Sequence[int], start: int, pages: Sequence[int], slot_in: int | None, slot_out: int
) -> PrefillChunk:
    return PrefillChunk(
        token_ids=tokens, start=start, page_ids=pages, slot_in=slot_in, slot_out=slot_out
    )


def decode_chunk(
    tokens: Sequence[int], start: int, pages: Sequence[int], slot_in: int, slots_out: Sequence[int]
) -> DecodeChunk:
    return DecodeChunk(
        token_ids=tokens, start=start, page_ids=pages, slot_in=slot_in, slots_out=slots_out
    )


def packed(*chunks: Chunk) -> Batch:
    return pack(chunks, page_tokens=4, device="cpu")


def test_decode_rows_come_first_and_rows_with_logits_keep_the_callers_order() -> None:
    batch = packed(
        prefill_chunk([10, 11, 12], 3, [5, 6], 0, 0),
        prefill_chunk([20], 9, [7, 8, 9], 1, 1),
        prefill_chunk([30], 0, [2], None, 2),
    )

    assert batch.num_decode_tokens == 1
    assert batch.token_ids_T.tolist() == [20, 10, 11, 12, 30]
    assert batch.positions_T.tolist() == [9, 3, 4, 5, 0]
    assert batch.logit_rows_R.tolist() == [3, 0, 4]


def test_each_token_has_its_place_in_the_pages() -> None:
    batch = packed(
        prefill_chunk([10, 11, 12], 3, [5, 6], 0, 0), prefill_chunk([20], 9, [7, 8, 9], 1, 1)
    )

    assert batch.pages_T.tolist() == [9, 5, 6, 6]
    assert batch.offsets_T.tolist() == [1, 3, 0, 1]


def test_decode_rows_name_slots_lengths_and_pages() -> None:
    decode = packed(
        prefill_chunk([1], 9, [7, 8, 9, 3], 1, 4), prefill_chunk([2], 3, [5], 0, 0)
    ).decode

    assert decode is not None
    assert decode.round_sizes == (2,)
    assert decode.slots_in_D.tolist() == [1, 0]
    assert decode.slots_out_T.tolist() == [4, 0]
    assert decode.lengths_D.tolist() == [10, 4]
    # Of the first row's four pages three are needed; the second repeats its own.
    assert decode.page_table_DP.tolist() == [[7, 8, 9], [5, 5, 5]]


def test_decode_chunks_are_stored_round_by_round_the_longest_first() -> None:
    batch = packed(
        prefill_chunk([90, 91], 0, [0], None, 9),
        decode_chunk([10, 11], 3, [5, 6], 0, [0, 1]),
        decode_chunk([20, 21, 22], 9, [7, 8, 9], 2, [3, 4, 2]),
        prefill_chunk([30], 7, [2, 3], 5, 5),
    )

    assert batch.token_ids_T.tolist() == [20, 10, 30, 21, 11, 22, 90, 91]
    assert batch.positions_T.tolist() == [9, 3, 7, 10, 4, 11, 0, 1]
    assert batch.pages_T.tolist() == [9, 5, 3, 9, 6, 9, 0, 0]
    assert batch.logit_rows_R.tolist() == [7, 1, 4, 0, 3, 5, 2]
    assert batch.num_decode_tokens == 6
    assert batch.decode is not None
    assert batch.decode.lengths_D.tolist() == [10, 4, 8]
    assert batch.decode.round_sizes == (3, 2, 1)


def test_each_row_of_a_decode_chunk_names_the_slot_it_writes() -> None:
    decode = packed(
        decode_chunk([10, 11], 3, [5, 6], 0, [0, 1]),
        decode_chunk([20, 21, 22], 9, [7, 8, 9], 2, [3, 4, 2]),
    ).decode

    assert decode is not None
    assert decode.round_sizes == (2, 2, 1)
    assert decode.slots_in_D.tolist() == [2, 0]
    assert decode.slots_out_T.tolist() == [3, 0, 4, 1, 2]


def test_each_token_is_joined_with_the_hidden_state_before_it() -> None:
    hidden = pack(
        [
            replace(prefill_chunk([1, 2, 3, 4], 4, [7, 8], 6, 7), checkpoints=[(6, 8)]),
            prefill_chunk([90, 91], 0, [0], None, 9),
            decode_chunk([10, 11], 3, [5, 6], 0, [0, 1]),
            decode_chunk([20, 21, 22], 9, [7, 8, 9], 2, [3, 4, 2]),
        ],
        page_tokens=4,
        device="cpu",
        keeps_hidden=True,
    ).hidden

    # Rows: 20 10 | 21 11 | 22 | 1 2 3 4 | 90 91, then what stands in slots 2, 0 and 6.
    assert hidden is not None
    assert hidden.slots_in_I.tolist() == [2, 0, 6]
    assert hidden.before_T.tolist() == [11, 12, 0, 1, 2, 13, 5, 6, 7, 9, 9]
    assert hidden.rows_K.tolist() == [0, 1, 2, 3, 4, 6, 8, 10]
    assert hidden.slots_out_K.tolist() == [3, 0, 4, 1, 2, 8, 7, 9]


def test_without_an_mtp_layer_there_are_no_hidden_rows() -> None:
    assert packed(prefill_chunk([1], 0, [0], None, 0)).hidden is None


def test_prefill_rows_name_bounds_starts_and_slots() -> None:
    batch = packed(prefill_chunk([1, 2], 4, [7, 8], 1, 4), prefill_chunk([3], 0, [5], None, 0))

    assert batch.decode is None
    assert batch.prefill is not None
    assert batch.prefill.cu_tokens_N1.tolist() == [0, 2, 3]
    assert batch.prefill.starts_N.tolist() == [4, 0]
    assert batch.prefill.segments.slots_in_N.tolist() == [1, NO_SLOT]
    assert batch.prefill.segments.slots_out_M.tolist() == [4, 0]


def test_a_prefill_chunk_is_cut_into_segments_where_states_are_stored() -> None:
    whole = prefill_chunk([1, 2, 3, 4, 5], 4, [7, 8, 9], 1, 4)
    batch = packed(
        replace(whole, checkpoints=[(6, 2), (8, 3)]), prefill_chunk([3], 0, [5], None, 0)
    )

    assert batch.prefill is not None
    assert batch.prefill.cu_tokens_N1.tolist() == [0, 5, 6]
    segments = batch.prefill.segments
    assert segments.cu_tokens_M1.tolist() == [0, 2, 4, 5, 6]
    assert segments.slots_out_M.tolist() == [2, 3, 4, 0]
    assert segments.cu_segments_N1.tolist() == [0, 3, 4]
    assert segments.slots_in_N.tolist() == [1, NO_SLOT]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [prefill_chunk([], 0, [0], None, 0)],
        [prefill_chunk([1], 4, [0], 0, 0)],
        [prefill_chunk([1], 4, [0, 1], None, 0)],
        [prefill_chunk([1], 0, [0], 0, 0)],
        [prefill_chunk([1], 0, [0], None, 0), prefill_chunk([1], 0, [1], None, 0)],
        [prefill_chunk([1], 0, [0], None, 0), prefill_chunk([1], 1, [1], 0, 1)],
        [replace(prefill_chunk([1, 2], 0, [0], None, 0), checkpoints=[(1, 0)])],
        [replace(prefill_chunk([1, 2], 0, [0], None, 0), checkpoints=[(2, 1)])],
        [decode_chunk([1, 2], 3, [0, 1], 0, [1])],
        [decode_chunk(range(9), 3, [0, 1, 2], 0, range(9))],
        [decode_chunk([1, 2], 3, [0, 1], 0, [1, 1])],
        [decode_chunk([1, 2], 3, [0, 1], 0, [0, 1]), decode_chunk([1, 2], 3, [2, 3], 1, [2, 3])],
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
        "a token of a decode chunk without a slot",
        "too long a decode chunk",
        "a decode chunk that writes a slot twice",
        "a decode chunk that writes what another reads",
    ],
)
def test_an_invalid_batch_of_the_scheduler_raises(chunks: list[Chunk]) -> None:
    with pytest.raises(AssertionError):
        packed(*chunks)
