from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.layout import FieldRegion
from kv_transfer.writing.plan import Fragment, batches, plan_units
from segue.cache.layout import CacheField, Unit

FIELD = CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="bfloat16", shape=(3,))
UNIT = FIELD.unit_bytes
SOURCE = FieldRegion(field=FIELD, base_address=1000, num_units=12)
TARGET = FieldRegion(field=FIELD, base_address=5000, num_units=20)


def test_neighbours_on_both_sides_become_one_fragment() -> None:
    fragments = plan_units(SOURCE, TARGET, [(4, 0), (5, 1), (6, 7), (9, 8)])

    assert fragments == [
        Fragment(1000 + 4 * UNIT, 5000, 2 * UNIT),
        Fragment(1000 + 6 * UNIT, 5000 + 7 * UNIT, UNIT),
        Fragment(1000 + 9 * UNIT, 5000 + 8 * UNIT, UNIT),
    ]


def test_neighbours_are_found_in_any_order_of_units() -> None:
    assert plan_units(SOURCE, TARGET, [(2, 12), (0, 10), (1, 11)]) == [
        Fragment(1000, 5000 + 10 * UNIT, 3 * UNIT)
    ]


def test_two_units_never_have_the_same_target() -> None:
    with pytest.raises(ValueError, match="two pages have the same target"):
        plan_units(SOURCE, TARGET, [(0, 3), (1, 3)])


@pytest.mark.parametrize("pair", [(12, 0), (0, 20), (-1, 0)])
def test_a_unit_outside_its_region_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="is not one of"):
        plan_units(SOURCE, TARGET, [pair])


def test_an_empty_move_has_no_fragment_and_no_batch() -> None:
    assert plan_units(SOURCE, TARGET, []) == []
    assert list(batches([], max_items=4, max_bytes=100)) == []


@st.composite
def some_pairs(draw: st.DrawFn) -> list[tuple[int, int]]:
    sources = draw(st.lists(st.integers(0, SOURCE.num_units - 1), unique=True))
    targets = draw(st.permutations(range(TARGET.num_units)))
    return list(zip(sources, targets, strict=False))


@given(pairs=some_pairs(), max_items=st.integers(1, 5), max_bytes=st.integers(1, 40))
def test_batches_move_exactly_the_bytes_of_the_named_units(
    pairs: list[tuple[int, int]], max_items: int, max_bytes: int
) -> None:
    source = bytes(i % 251 for i in range(SOURCE.num_bytes))
    target = bytearray(TARGET.num_bytes)
    times_written = [0] * TARGET.num_bytes

    planned = list(
        batches(plan_units(SOURCE, TARGET, pairs), max_items=max_items, max_bytes=max_bytes)
    )
    for fragment in itertools.chain(*planned):
        start = fragment.target_address - TARGET.base_address
        origin = fragment.source_address - SOURCE.base_address
        target[start : start + fragment.num_bytes] = source[origin : origin + fragment.num_bytes]
        for index in range(start, start + fragment.num_bytes):
            times_written[index] += 1

    expected = bytearray(TARGET.num_bytes)
    for source_unit, target_unit in pairs:
        expected[target_unit * UNIT : (target_unit + 1) * UNIT] = source[source_unit * UNIT :][
            :UNIT
        ]
    written_units = {target_unit for _, target_unit in pairs}
    assert target == expected
    assert times_written == [
        int(index // UNIT in written_units) for index in range(TARGET.num_bytes)
    ]
    assert all(len(batch) <= max_items for batch in planned)
    assert all(sum(f.num_bytes for f in batch) <= max_bytes for batch in planned)


@given(pairs=some_pairs())
def test_no_two_fragments_of_a_plan_could_be_merged(pairs: list[tuple[int, int]]) -> None:
    fragments = plan_units(SOURCE, TARGET, pairs)

    for first, second in itertools.pairwise(fragments):
        touches_here = first.source_address + first.num_bytes == second.source_address
        touches_there = first.target_address + first.num_bytes == second.target_address
        assert not (touches_here and touches_there)
