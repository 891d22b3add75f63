"""The cache's memory, one tensor per field of its layout, and copies between two such memories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from segue.cache.allocation import on_huge_pages, pinned_tensors
from segue.cache.layout import E4M3, CacheField, CacheLayout, Unit

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    E4M3: torch.float8_e4m3fn,
}


class CacheTensors:
    """One tensor [num_units, *shape] per field, at a fixed address for the worker's life."""

    def __init__(self, layout: CacheLayout, tensors: dict[tuple[str, int], Tensor]) -> None:
        self.layout = layout
        self._tensors = tensors

    @classmethod
    def allocate(
        cls,
        layout: CacheLayout,
        *,
        num_pages: int,
        num_slots: int,
        device: str,
        pinned: bool = False,
    ) -> CacheTensors:
        """`pinned`: allocates page-locked host memory, which a GPU can access by DMA."""
        num_units = {Unit.PAGE: num_pages, Unit.SLOT: num_slots}
        shapes = [(num_units[f.unit], *f.shape) for f in layout.fields]
        dtypes = [TORCH_DTYPES[f.dtype] for f in layout.fields]
        if pinned:
            made = pinned_tensors(shapes, dtypes)
        else:
            made = [
                on_huge_pages(torch.empty(shape, dtype=dtype, device=device))
                for shape, dtype in zip(shapes, dtypes, strict=True)
            ]
        # empty + zero_ instead of zeros: this writes every byte, so the memory is mapped now. A
        # transfer into untouched memory runs at a fifth of the speed.
        names = [(f.group, f.layer) for f in layout.fields]
        return cls(layout, {name: x.zero_() for name, x in zip(names, made, strict=True)})

    @property
    def device(self) -> torch.device:
        return next(iter(self._tensors.values())).device

    def of(self, group: str, layer: int) -> Tensor:
        """The tensor of one field; KeyError when the layout has no such field."""
        return self._tensors[group, layer]

    def fields(self) -> Iterable[tuple[CacheField, Tensor]]:
        """Every field with its tensor, in the layout's order."""
        for field in self.layout.fields:
            yield field, self._tensors[field.group, field.layer]


def copy_units(
    source: CacheTensors,
    target: CacheTensors,
    unit: Unit,
    from_units: Sequence[int],
    to_units: Sequence[int],
) -> None:
    """Copies all fields of `from_units[i]` to `to_units[i]`, between the device and the host.
    Returns when the copy is complete.

    Any thread may call it: it touches nothing but these units.
    """
    spans = list(_spans(from_units, to_units))
    for field, to in target.fields():
        if field.unit is unit:
            tensor = source.of(field.group, field.layer)
            for from_start, to_start, length in spans:
                # Without `non_blocking`, copy_ between device and host is synchronous.
                to[to_start : to_start + length].copy_(tensor[from_start : from_start + length])


def _spans(from_units: Sequence[int], to_units: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Merges units that are neighbours on both sides: first source, first target, length."""
    start = 0
    for i in range(1, len(from_units) + 1):
        is_neighbour = (
            i < len(from_units)
            and from_units[i] == from_units[i - 1] + 1
            and to_units[i] == to_units[i - 1] + 1
        )
        if not is_neighbour:
            yield from_units[start], to_units[start], i - start
            start = i
