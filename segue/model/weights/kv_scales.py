"""The scales of keys and values that a checkpoint brings for e4m3 pages."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.kernels.paged_attention.e4m3 import E4M3, UNSCALED, Scales


class KvScales:
    """Of one attention layer."""

    def __init__(self, weights: Mapping[str, Tensor], at: str) -> None:
        """Raises InvalidCheckpoint for scales that nothing can be divided by."""
        self._scales = _of(weights, at)

    def of(self, pages: Tensor) -> Scales:
        """Pages of other dtypes have keys and values as they are."""
        return self._scales if pages.dtype is E4M3 else UNSCALED


def _of(weights: Mapping[str, Tensor], at: str) -> Scales:
    if (stored := weights.get(f"{at}.kv_scales")) is None:
        return UNSCALED
    k_scale, v_scale = stored.tolist()
    if not all(math.isfinite(scale) and scale > 0 for scale in (k_scale, v_scale)):
        raise InvalidCheckpoint(
            f"{at}: k_scale and v_scale must be finite and above 0, got {k_scale} and {v_scale}; "
            'remove them, or serve with [engine] kv_dtype = "auto" from a copy without them'
        )
    return k_scale, v_scale
