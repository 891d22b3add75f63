"""A worker's memory in both tiers: unit pools, and the tensors behind them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

from segue.cache.host.tier import CopyUnits, Tiers
from segue.cache.host.unit_copy import copy_units
from segue.cache.layout import Unit
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.tensors import CacheTensors
from segue.engine.config import EngineConfig, host_pool_sizes
from segue.parallel.followers import Followers
from segue.worker.load import LoadedModel
from segue.worker.ranks.starting import host_tensors

logger = logging.getLogger(__name__)


def tiers_of(
    loaded: LoadedModel, engine: EngineConfig, *, worth: EvictionCost, clock: Callable[[], float]
) -> Tiers:
    """All units are free. Raises InvalidConfig if the host tier is too small to be useful."""
    layout = loaded.runner.layout
    sizes = host_pool_sizes(loaded.runner.tensors.layout, engine)
    if engine.host_cache_bytes:
        logger.info(
            "host cache allocated, sized by [engine] host_cache_bytes",
            extra={"num_pages": sizes.num_pages, "num_slots": sizes.num_slots},
        )
    device = loaded.runner.tensors
    host = host_tensors(loaded.runner, engine)

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
        down=_copying(device, host, loaded.followers, is_down=True),
        up=_copying(host, device, loaded.followers, is_down=False),
    )


def _copying(
    source: CacheTensors, target: CacheTensors, followers: Followers | None, *, is_down: bool
) -> CopyUnits:
    """Copies units on every rank."""
    own = functools.partial(copy_units, source, target)
    if followers is None:
        return own

    def copy(unit: Unit, from_units: Sequence[int], to_units: Sequence[int]) -> None:
        answers = followers.ask("copy", is_down, unit, tuple(from_units), tuple(to_units))
        own(unit, from_units, to_units)
        for answer in answers:
            answer.result()

    return copy
