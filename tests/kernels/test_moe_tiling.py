from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from segue.kernels.moe.tiling import DENSE, MIDDLE, STREAMING, max_tiles, tiling_of


@given(st.data())
def test_there_are_never_more_tiles_than_the_grid_has(data: st.DataObject) -> None:
    num_experts = data.draw(st.integers(1, 20))
    experts_per_token = data.draw(st.integers(1, num_experts))
    rows = data.draw(st.sampled_from([16, 64, 128]))
    num_tokens = data.draw(st.integers(1, 300))
    choice = st.permutations(range(num_experts)).map(lambda ids: ids[:experts_per_token])
    kinds = data.draw(st.lists(choice, min_size=1, max_size=4))

    counts = [0] * num_experts
    for token in range(num_tokens):
        for expert in kinds[token % len(kinds)]:
            counts[expert] += 1

    tiles = sum(math.ceil(count / rows) for count in counts)
    assert tiles <= max_tiles(num_tokens, num_experts, experts_per_token, rows)


def test_the_grid_of_a_few_tokens_has_a_tile_for_each_pair() -> None:
    assert max_tiles(1, 256, 8, STREAMING.rows) == 8
    assert max_tiles(8, 256, 8, STREAMING.rows) == 64


def test_tiles_grow_with_the_rows_of_an_expert() -> None:
    sizes = (1, 64, 192, 193, 1536, 1537, 8192)
    tilings = [tiling_of(num_tokens, 256, 8) for num_tokens in sizes]

    assert tilings == [STREAMING] * 3 + [MIDDLE] * 2 + [DENSE] * 2
