"""A prefill worker's memory without a model: what it would reuse from its cache, and keep."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Self

from benchmarks.harness.turns import turn_of
from prefill_worker.config import PrefillConfig
from prefill_worker.pull import Rates
from prefill_worker.units import PromptMemory
from segue.cache.host.tier import HostTier, Tiers
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import cost_to_prefill

# The proportions of a 27 billion parameter model: a state equals about 2,300 tokens of keys and
# values.
_LAYOUT = CacheLayout(
    model_id="none",
    page_tokens=16,
    fields=(
        CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(16,)),
        CacheField(group="recurrent", layer=1, unit=Unit.SLOT, dtype="float32", shape=(2300,)),
    ),
)


class PrefillSide:
    """An async context manager; checks its invariants on exit."""

    def __init__(self, *, num_slots: int = 96, num_pages: int = 20_000) -> None:
        def memory(num_pages: int, num_slots: int) -> Memory:
            return Memory.of(
                num_pages=num_pages,
                num_slots=num_slots,
                page_tokens=_LAYOUT.page_tokens,
                worth=cost_to_prefill(_LAYOUT, float),
                clock=lambda: 0.0,
            )

        self.memory = memory(num_pages, num_slots)
        tiers = Tiers(
            device=self.memory,
            host=memory(0, 0),
            layout=_LAYOUT,
            down=lambda *_: None,
            up=lambda *_: None,
        )
        self._tier = HostTier(tiers, freed=lambda: None, loaded=lambda *_: None, clock=lambda: 0.0)
        self._prompts = PromptMemory(
            self.memory, self._tier, Rates(), _LAYOUT, PrefillConfig(), max_running=16
        )
        self._names = itertools.count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tier.close()
        self.memory.check_invariants()

    def serve(
        self, prompt: Sequence[int], branch_points: Sequence[int], session_id: str = ""
    ) -> int:
        """Acts as if the prompt was computed here. Returns its number of cached tokens."""
        turn = turn_of(
            f"turn-{next(self._names)}",
            prompt,
            max_tokens=256,
            session_id=session_id,
            branch_points=branch_points,
        )
        units = self._prompts.take(turn)
        cached = units.hold.num_tokens
        self._prompts.keep(turn, units)
        return cached
