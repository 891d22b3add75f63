"""The byte layout of pages and slots, as data. Allocation, memory budget and transfer all read it.

    page p   ┌ layer 3  kv [2, kv_heads, page_tokens, head_dim] ┐   one unit of every
             │ layer 7  kv [2, kv_heads, page_tokens, head_dim] │   "page" field
             └ ...                                              ┘
    slot s   ┌ layer 0  recurrent [v_heads, k_dim, v_dim] float32 ┐ one unit of every
             │ layer 0  conv      [conv_channels, kernel - 1]     │ "slot" field
             │ layer 1  ...                                       │
             └ layer N  hidden    [hidden_size]                   ┘ of an MTP layer, if any

Each field is one array [num_units, *shape], so unit u of a field is a contiguous run of bytes, and
neighbouring units are neighbours in memory. No torch here: dtypes are names.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from segue.api.checks import require_count, require_name

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Sizes of dtypes of weights and activations."""
E4M3 = "float8_e4m3fn"
STORED_BYTES = {**DTYPE_BYTES, E4M3: 1}
"""Sizes of dtypes of pages and slots."""

# Limits that reject nonsense in layouts received from other processes.
_MAX_UNIT_BYTES = 1 << 40
_MAX_FIELDS = 10_000
_MAX_PAGE_TOKENS = 1 << 20


class Unit(enum.StrEnum):
    PAGE = "page"
    SLOT = "slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheField:
    """One array of the cache: one layer's data per page or per slot."""

    group: str
    """"kv", "recurrent", "conv" or "hidden": fields of a group are checksummed together."""
    layer: int
    unit: Unit
    dtype: str
    shape: tuple[int, ...]
    """The shape of one unit. Pages are head-major, [2, kv_heads, page_tokens, head_dim]: the keys
    of a head are one run of bytes, and so are its values."""

    def __post_init__(self) -> None:
        if self.dtype not in STORED_BYTES:
            raise ValueError(f"dtype must be one of {sorted(STORED_BYTES)}, got {self.dtype!r}")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must have positive dimensions, got {self.shape}")
        if self.unit_bytes > _MAX_UNIT_BYTES:
            raise ValueError(
                f"a unit must have at most {_MAX_UNIT_BYTES} bytes, got {self.unit_bytes}"
            )
        require_name("a field's group", self.group)
        require_count("a field's layer", self.layer, high=_MAX_FIELDS)

    @property
    def unit_bytes(self) -> int:
        return math.prod(self.shape) * STORED_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """Everything that two workers must agree on before bytes move between them.

    Pool sizes are not part of it: they may differ from worker to worker.
    """

    model_id: str
    """Names the weights: workers with different ids must never exchange states."""
    page_tokens: int
    fields: tuple[CacheField, ...]

    def __post_init__(self) -> None:
        require_name("model_id", self.model_id)
        require_count("page_tokens", self.page_tokens, low=1, high=_MAX_PAGE_TOKENS)
        require_count("the number of a layout's fields", len(self.fields), high=_MAX_FIELDS)

    def of_unit(self, unit: Unit) -> tuple[CacheField, ...]:
        return tuple(f for f in self.fields if f.unit is unit)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers."""
        return sum(f.unit_bytes for f in self.of_unit(Unit.PAGE))

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot over all layers."""
        return sum(f.unit_bytes for f in self.of_unit(Unit.SLOT))

    def num_bytes(self, num_pages: int, num_slots: int) -> int:
        return num_pages * self.page_bytes + num_slots * self.slot_bytes

    def num_pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_tokens)
