"""Places of a GPU's memory become rows with one operation: here of a CPU's."""

from __future__ import annotations

import pytest
import torch

from kv_transfer.transport.cache_memory import gathered, runs

BYTES = torch.arange(1000).to(torch.uint8)


@pytest.mark.parametrize(
    ("offsets", "num_bytes"),
    [
        ([0, 64, 960], 32),
        ([8, 0, 24, 8], 16),
        ([3, 100, 7], 5),
        ([992], 8),
        ([0], 1000),
        ([995, 0], 5),
    ],
)
def test_rows_have_the_bytes_of_their_places(offsets: list[int], num_bytes: int) -> None:
    rows = gathered(BYTES, offsets, num_bytes)

    assert rows.tolist() == [BYTES[at : at + num_bytes].tolist() for at in offsets]


def test_places_of_one_size_are_gathered_together_up_to_a_limit() -> None:
    places = [(1000, 10), (1020, 10), (1010, 10), (5000, 4), (4000, 4), (7000, 100), (8000, 100)]

    assert list(runs(places, most_bytes=20)) == [
        (1000, [0, 20], 10),
        (1010, [0], 10),
        (4000, [1000, 0], 4),
        (7000, [0], 100),
        (8000, [0], 100),
    ]
    assert list(runs([], most_bytes=20)) == []
