from __future__ import annotations

import dataclasses

import pytest

from kv_transfer.layout import MemoryMap, require_same_layout
from segue.api.errors import LayoutMismatch
from segue.api.types import Epoch, WorkerId
from segue.cache.layout import CacheField, CacheLayout, Unit

KV = CacheField(group="kv", layer=1, unit=Unit.PAGE, dtype="bfloat16", shape=(2, 4, 16, 64))
CONV = CacheField(group="conv", layer=0, unit=Unit.SLOT, dtype="bfloat16", shape=(96, 3))
LAYOUT = CacheLayout(model_id="qwen", page_tokens=16, fields=(CONV, KV))


def memory_map(worker_id: str, layout: CacheLayout) -> MemoryMap:
    return MemoryMap(
        worker_id=WorkerId(worker_id),
        epoch=Epoch(7),
        segment=f"{worker_id}:15000",
        layout=layout,
        base_addresses=tuple(1 << 20 for _ in layout.fields),
        num_units=tuple(8 for _ in layout.fields),
    )


def test_a_units_address_is_its_number_times_its_size() -> None:
    ours = memory_map("prefill-0", LAYOUT)

    assert ours.region(1).address(3) == (1 << 20) + 3 * KV.unit_bytes
    with pytest.raises(IndexError, match="page 8 is not one of 8"):
        ours.region(1).address(8)


def test_a_map_must_have_an_address_for_every_field() -> None:
    with pytest.raises(ValueError, match=r"prefill-0: expected 2 addresses.*got 1 and 2"):
        dataclasses.replace(memory_map("prefill-0", LAYOUT), base_addresses=(1,))


def test_equal_layouts_are_compatible_whatever_their_pool_sizes() -> None:
    theirs = dataclasses.replace(memory_map("decode-0", LAYOUT), num_units=(2, 99))

    require_same_layout(memory_map("prefill-0", LAYOUT), theirs)


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
    [
        ({"model_id": "other"}, "model_id 'qwen'", "model_id 'other'"),
        ({"page_tokens": 32}, "page_tokens 16", "page_tokens 32"),
        ({"fields": (CONV,)}, "2 fields", "1 fields"),
        (
            {"fields": (CONV, dataclasses.replace(KV, dtype="float32"))},
            "field 1 kv of layer 1: [2, 4, 16, 64] bfloat16 per page",
            "field 1 kv of layer 1: [2, 4, 16, 64] float32 per page",
        ),
        (
            {"fields": (CONV, dataclasses.replace(KV, dtype="float8_e4m3fn"))},
            "field 1 kv of layer 1: [2, 4, 16, 64] bfloat16 per page",
            "field 1 kv of layer 1: [2, 4, 16, 64] float8_e4m3fn per page",
        ),
        (
            {"fields": (CONV, dataclasses.replace(KV, shape=(2, 2, 16, 64)))},
            "field 1 kv of layer 1: [2, 4, 16, 64] bfloat16 per page",
            "field 1 kv of layer 1: [2, 2, 16, 64] bfloat16 per page",
        ),
    ],
)
def test_a_mismatch_names_both_workers_and_their_values(
    change: dict[str, object], ours: str, theirs: str
) -> None:
    other = dataclasses.replace(LAYOUT, **change)  # type: ignore[arg-type]  # one field at a time

    with pytest.raises(LayoutMismatch) as refused:
        require_same_layout(memory_map("prefill-0", LAYOUT), memory_map("decode-0", other))

    assert f"prefill-0 has {ours}, decode-0 has {theirs}" in str(refused.value)


def test_a_mismatch_gives_the_number_of_differences_it_does_not_list() -> None:
    other = dataclasses.replace(LAYOUT, model_id="other", page_tokens=32)

    with pytest.raises(LayoutMismatch, match=r"\(and 1 more differences\)"):
        require_same_layout(memory_map("prefill-0", LAYOUT), memory_map("decode-0", other))
