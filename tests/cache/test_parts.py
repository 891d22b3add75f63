"""Which bytes move between the ranks of two workers: for real shapes, every byte exactly once."""

from __future__ import annotations

import itertools

import pytest

from segue.cache.layout import CacheField, CacheLayout
from segue.cache.parts import ByteSpan, layout_of_rank, spans
from segue.model.cache_layout import cache_layout
from segue.model.ranks.config import config_of_rank
from segue.parallel.rank import Rank
from tests.parallel.test_splits import LARGE

LAYOUT = cache_layout(LARGE, model_id="m", page_tokens=64, kv_dtype="bfloat16", with_mtp=True)
# The first layer of each kind, and the MTP layer.
FIELDS = {f.group: f for f in reversed(LAYOUT.fields)}
HEAD = 64 * 256 * 2
"""Bytes of one head's keys in a page."""


def ranks(count: int) -> list[Rank]:
    return [Rank(index=index, count=count) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_ranks_layout_follows_from_its_part_of_the_model(count: int) -> None:
    for rank in ranks(count):
        own = config_of_rank(LARGE, rank)
        expected = cache_layout(
            own, model_id="m", page_tokens=64, kv_dtype="bfloat16", with_mtp=True
        )
        assert layout_of_rank(LAYOUT, rank) == expected


@pytest.mark.parametrize(("sources", "targets"), [*itertools.product([1, 2, 4, 8], repeat=2)])
@pytest.mark.parametrize("group", ["kv", "recurrent", "conv", "hidden"])
def test_every_rank_gets_every_byte_once(group: str, sources: int, targets: int) -> None:
    field = FIELDS[group]

    for target in ranks(targets):
        own_bytes = unit_bytes(field, target)
        got = []
        for source in ranks(sources):
            for span in spans(LAYOUT, field, source, target):
                assert 0 <= span.source_offset <= unit_bytes(field, source) - span.num_bytes
                for byte in (0, span.num_bytes - 1):
                    # The byte has the same meaning on both sides.
                    assert place(field, source, span.source_offset + byte) == place(
                        field, target, span.target_offset + byte
                    )
                got.append((span.target_offset, span.target_offset + span.num_bytes))
        ends = [0, *itertools.chain.from_iterable(sorted(got)), own_bytes]
        assert ends[::2] == ends[1::2], f"gaps or overlaps in {sorted(got)}"


def unit_bytes(field: CacheField, rank: Rank) -> int:
    own: CacheLayout = layout_of_rank(LAYOUT, rank)
    return own.fields[LAYOUT.fields.index(field)].unit_bytes


def place(field: CacheField, rank: Rank, offset: int) -> int:
    """Where byte `offset` of a rank's unit is in the whole unit: head by head, for real shapes."""
    heads = {
        "kv": [(2, HEAD)] * 2,
        "recurrent": [(64, 128 * 128 * 4)],
        "conv": [(16, 128 * 3 * 2)] * 2 + [(64, 128 * 3 * 2)],
        "hidden": [(1, 4096 * 2)],
    }[field.group]
    whole = own = 0
    for count, num_bytes in heads:
        part = rank.part(count)
        if offset < own + len(part) * num_bytes:
            return whole + part.start * num_bytes + offset - own
        own += len(part) * num_bytes
        whole += count * num_bytes
    raise AssertionError(f"{offset} is past the unit's end")


def test_equal_ranks_exchange_whole_units() -> None:
    for field in FIELDS.values():
        for count in (1, 2):
            for source, target in itertools.product(ranks(count), repeat=2):
                whole = (ByteSpan(0, 0, unit_bytes(field, source)),)
                is_hidden_of_other = field.group == "hidden" and source != target
                expected = whole if source == target and not is_hidden_of_other else ()
                assert spans(LAYOUT, field, source, target) == expected


def test_ranks_that_share_a_head_alternate() -> None:
    kv = FIELDS["kv"]
    senders = {
        target.index: [s.index for s in ranks(8) if spans(LAYOUT, kv, s, target)]
        for target in ranks(4)
    }

    # Ranks 0 to 3 of the writer have the first head, which ranks 0 and 1 of the reader want.
    assert senders == {0: [0], 1: [1], 2: [6], 3: [7]}
    assert spans(LAYOUT, kv, ranks(8)[6], ranks(4)[2]) == (ByteSpan(0, 0, 2 * HEAD),)
    # Of one writer with both heads, a reader's rank takes its head's keys and values.
    assert spans(LAYOUT, kv, ranks(1)[0], ranks(4)[3]) == (
        ByteSpan(HEAD, 0, HEAD),
        ByteSpan(3 * HEAD, HEAD, HEAD),
    )
