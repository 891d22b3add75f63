"""A worker's memory in both tiers: unit pools, and the tensors behind them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from segue.cache.host.tier import Tiers
from segue.cache.host.unit_copy import copy_units
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.tensors import CacheTensors
from segue.engine.config import EngineConfig, host_pool_sizes
from segue.worker.load import LoadedModel

logger = logging.getLogger(__name__)


def tiers_of(
    loaded: LoadedModel, engine: EngineConfig, *, worth: EvictionCost, clock: Callable[[], float]
) -> Tiers:
    """All units are free. Raises InvalidConfig if the host tier is too small to be useful."""
    layout = loaded.runner.layout
    sizes = host_pool_sizes(layout, engine)
    if engine.host_cache_bytes:
        logger.info(
            "host cache allocated, sized by [engine] host_cache_bytes",
            extra={"num_pages": sizes.num_pages, "num_slots": sizes.num_slots},
        )
    device = loaded.runner.tensors
    host = CacheTensors.allocate(
        layout,
        num_pages=sizes.num_pages,
        num_slots=sizes.num_slots,
        device="cpu",
        pinned=device.device.type == "cuda",
    )

    def memory(num_pages: int, num_slots: int) -> Memory:
        return Memory.of(
            num_pages=num_pages,
            num_slots=num_slots,
            page_tokens=layout.page_tokens,
            worth=worth,
            clock=clock,
        )

    return Tiers(
        device=memory(loaded.sizes.num_pages, loaded.sizes.num_slots),
        host=memory(sizes.num_pages, sizes.num_slots),
        layout=layout,
        down=functools.partial(copy_units, device, host),
        up=functools.partial(copy_units, host, device),
    )
