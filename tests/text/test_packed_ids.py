"""Searching packed ids finds what a loop finds, even if neighbours' bytes look like a token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.text.tokens.packed_ids import PackedIds

# Ids whose bytes overlap in every way.
IDS = st.sampled_from([0, 1, 256, 257, 65_536, 65_537, 16_777_216, 16_777_217])


@given(st.lists(IDS, max_size=12), IDS, st.integers(0, 12))
def test_a_token_is_found_at_its_position(ids: list[int], token_id: int, bound: int) -> None:
    bound = min(bound, len(ids))
    packed = PackedIds(ids)

    after = [at for at in range(bound, len(ids)) if ids[at] == token_id]
    before = [at for at in range(bound) if ids[at] == token_id]

    assert len(packed) == len(ids)
    assert packed.find(token_id, bound) == (after[0] if after else -1)
    assert packed.find_last(token_id, bound) == (before[-1] if before else -1)


@given(st.lists(IDS, max_size=6), st.lists(IDS, max_size=3), st.integers(-2, 6))
def test_a_run_of_tokens_is_found_or_not(ids: list[int], run: list[int], at: int) -> None:
    is_enabled = 0 <= at <= len(ids) and ids[at : at + len(run)] == run

    assert PackedIds(ids).has(at, run) == is_enabled
