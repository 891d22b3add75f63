"""What can be set about a worker's model and memory: section `[engine]`, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

from segue.cache.layout import CacheLayout
from segue.errors import InvalidConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    dtype: str = "auto"
    """Of weights, activations and pages; "auto" takes the checkpoint's."""
    device: str = "cpu"
    page_tokens: int = 16
    """Tokens whose keys and values share a page. Equal on all workers."""
    cache_bytes: int = 1 << 30
    """Memory for pages and slots together."""
    max_running: int = 16
    """Sequences a worker holds at once: the number of slots."""
    num_threads: int = 0
    """Of torch; 0 leaves the choice to torch."""

    def __post_init__(self) -> None:
        for name in ("page_tokens", "cache_bytes", "max_running"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSizes:
    num_pages: int
    num_slots: int


def pool_sizes(layout: CacheLayout, engine: EngineConfig, *, max_context: int) -> PoolSizes:
    """One slot per running sequence; the rest of the budget is pages, as many as could be used.

    Raises InvalidConfig when not even one sequence of one page fits.
    """
    for_slots = engine.max_running * layout.slot_bytes
    useful = engine.max_running * layout.num_pages_for(max_context)
    num_pages = min((engine.cache_bytes - for_slots) // layout.page_bytes, useful)
    if num_pages < 1:
        raise InvalidConfig(
            f"[engine] cache_bytes = {engine.cache_bytes} is too small: {engine.max_running} slots "
            f"take {for_slots} bytes and a page {layout.page_bytes}; raise it or lower max_running"
        )
    return PoolSizes(num_pages=num_pages, num_slots=engine.max_running)
