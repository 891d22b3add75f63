from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.placement.node import LoadIndex, Rank
from segue.api.types import WorkerId

names = st.sampled_from([WorkerId(name) for name in "abcdef"])
ranks = st.tuples(st.floats(0, 9), st.integers(0, 3), st.integers(0, 2), st.integers(-3, 0))


@given(st.lists(st.tuples(names, st.one_of(st.none(), ranks))))
def test_the_index_equals_a_sorted_list(
    changes: list[tuple[WorkerId, Rank | None]],
) -> None:
    index, loads = LoadIndex(), dict[WorkerId, Rank]()

    for name, rank in changes:
        if rank is None:
            index.remove(name)
            loads.pop(name, None)
        else:
            index.put(name, rank)
            loads[name] = rank
        index.check_invariants()

    ordered = sorted(loads, key=lambda name: (loads[name], name))
    assert list(index.first(len(index))) == ordered
    assert list(index.first(2, skipping=ordered[:1])) == ordered[1:2]
