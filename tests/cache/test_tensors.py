from __future__ import annotations

import torch

from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.tensors import CacheTensors, copy_units

LAYOUT = CacheLayout(
    model_id="m",
    page_tokens=4,
    fields=(
        CacheField(group="recurrent", layer=0, unit=Unit.SLOT, dtype="float32", shape=(2, 3)),
        CacheField(group="kv", layer=1, unit=Unit.PAGE, dtype="bfloat16", shape=(2, 1, 4, 8)),
    ),
)


def test_each_field_is_one_contiguous_array_of_zeros() -> None:
    tensors = CacheTensors.allocate(LAYOUT, num_pages=5, num_slots=3, device="cpu")

    recurrent, kv = tensors.of("recurrent", 0), tensors.of("kv", 1)

    assert (recurrent.shape, recurrent.dtype) == ((3, 2, 3), torch.float32)
    assert (kv.shape, kv.dtype) == ((5, 2, 1, 4, 8), torch.bfloat16)
    for field, tensor in tensors.fields():
        assert tensor.is_contiguous()
        assert tensor[0].nbytes == field.unit_bytes
        assert not tensor.any()


def test_fields_are_in_the_layouts_order_with_their_tensors() -> None:
    tensors = CacheTensors.allocate(LAYOUT, num_pages=1, num_slots=1, device="cpu")

    pairs = list(tensors.fields())

    assert [field for field, _ in pairs] == list(LAYOUT.fields)
    assert all(tensor is tensors.of(field.group, field.layer) for field, tensor in pairs)


def test_only_the_given_units_are_copied_wherever_they_are() -> None:
    source = CacheTensors.allocate(LAYOUT, num_pages=9, num_slots=4, device="cpu")
    target = CacheTensors.allocate(LAYOUT, num_pages=7, num_slots=4, device="cpu")
    kv, copied = source.of("kv", 1), target.of("kv", 1)
    for page in range(9):
        kv[page].fill_(page + 1)

    copy_units(source, target, Unit.PAGE, (4, 5, 6, 0, 8), (1, 2, 4, 0, 6))

    assert [int(page.unique().item()) for page in copied] == [1, 5, 6, 0, 7, 0, 9]
    assert not target.of("recurrent", 0).any()


def test_copying_nothing_is_fine() -> None:
    tensors = CacheTensors.allocate(LAYOUT, num_pages=1, num_slots=1, device="cpu")

    copy_units(tensors, tensors, Unit.SLOT, (), ())
