from __future__ import annotations

import zlib

from kv_transfer.transport.cache_memory import checksums_of, difference
from segue.api.types import PageId, SlotId
from tests.kv_transfer.world import World


def test_a_groups_checksum_covers_its_units_crcs_in_layout_then_sequence_order(
    world: World,
) -> None:
    node = world.node("decode-0")
    node.fill(seed=1)
    pages = (PageId(5), PageId(0), PageId(9))

    sums = checksums_of(node.memory_map, pages, SlotId(2))

    layer_1, layer_3 = node.content(pages, SlotId(2))[2], node.content(pages, SlotId(2))[5]
    size = node.memory_map.layout.fields[2].unit_bytes
    units = [layer[i * size : (i + 1) * size] for layer in (layer_1, layer_3) for i in range(3)]
    packed = b"".join(zlib.crc32(unit).to_bytes(4, "little") for unit in units)
    assert sums["kv"] == zlib.crc32(packed)
    assert sums.keys() == {"kv", "recurrent", "conv"}


def test_the_order_of_pages_matters(world: World) -> None:
    node = world.node("decode-0")
    node.fill(seed=1)

    forward = checksums_of(node.memory_map, (PageId(0), PageId(1)), SlotId(0))
    backward = checksums_of(node.memory_map, (PageId(1), PageId(0)), SlotId(0))

    assert forward["kv"] != backward["kv"]
    assert forward["conv"] == backward["conv"]


def test_a_difference_names_the_group_and_both_sums() -> None:
    assert difference({"kv": 1, "conv": 2}, {"kv": 1, "conv": 2}) == ""
    assert difference({"kv": 1}, {"kv": 255, "conv": 2}) == (
        "conv: sent nothing, arrived 00000002; kv: sent 00000001, arrived 000000ff"
    )
