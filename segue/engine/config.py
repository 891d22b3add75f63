"""What can be set about a worker's model and memory: section `[engine]`, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.errors import InvalidConfig
from segue.cache.layout import DTYPE_BYTES, CacheLayout

AUTO = "auto"

MAX_AUTO_HOST_BYTES = 2 << 30
"""Of a worker on a CPU. Its cache is written once at the start, which takes about 2 s a GiB, and is
gone for everything else on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    dtype: str = "auto"
    """Of weights, activations and pages; "auto" takes the checkpoint's."""
    device: str = "cpu"
    """"cpu" or "cuda": the one GPU that the process sees (`CUDA_VISIBLE_DEVICES` says which)."""
    page_tokens: int = 16
    """Tokens whose keys and values share a page. Equal on all workers."""
    cache_bytes: int | str = "auto"
    """Memory for pages and slots together. "auto": workers of a host or a GPU share equally what is
    free beside their weights, and take no more than they can use; on a CPU at most 2 GiB, or twice
    the slots of `max_running` sequences. See docs/operations.md."""
    gpu_share: float = 1.0
    """Of a GPU's memory, with "auto" on "cuda": below 1 where workers share the GPU."""
    host_cache_bytes: int = 0
    """Host memory behind it, for what sessions leave; 0: what is evicted is gone. Where the device
    is the CPU, `cache_bytes` is the same memory and needs no copying."""
    max_running: int = 16
    """Sequences a worker holds at once. Each may need two slots."""
    max_checkpoints: int = 64
    """Slots beyond those, for states that outlive their sequence; fewer where they would take more
    than half of the memory."""
    mtp: bool = True
    """Keep what a checkpoint's MTP layer needs to draft, where it has one: a little of every pass,
    and one attention layer's part of a page more. Equal on all workers."""
    num_threads: int = 0
    """Of torch; 0: every core, where `segue serve` starts Ray itself, else torch's own choice."""

    def __post_init__(self) -> None:
        if self.dtype not in (AUTO, *DTYPE_BYTES):
            choices = ", ".join((AUTO, *DTYPE_BYTES))
            raise ValueError(f"dtype must be one of {choices}, got {self.dtype!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f'device must be "cpu" or "cuda", got {self.device!r}')
        if isinstance(self.cache_bytes, str) and self.cache_bytes != AUTO:
            raise ValueError(f'cache_bytes must be a number or "auto", got {self.cache_bytes!r}')
        if not 0.0 < self.gpu_share <= 1.0:
            raise ValueError(f"gpu_share must be in (0, 1], got {self.gpu_share:g}")
        for name in ("page_tokens", "cache_bytes", "max_running"):
            if getattr(self, name) == AUTO:
                continue
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.host_cache_bytes < 0:
            raise ValueError(f"host_cache_bytes must be >= 0, got {self.host_cache_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSizes:
    num_pages: int
    num_slots: int


def pool_sizes(
    layout: CacheLayout, engine: EngineConfig, *, max_context: int, max_drafts: int = 0
) -> PoolSizes:
    """Slots for running sequences, checkpoints and the states after drafts; the rest of the budget
    is pages, as many as could be used.

    Raises InvalidConfig when not even one sequence of one page fits.
    """
    assert isinstance(engine.cache_bytes, int), '"auto" is settled before (segue/engine/budget.py)'
    num_working = 2 * engine.max_running
    affordable = engine.cache_bytes // 2 // layout.slot_bytes - num_working
    welcome = engine.max_checkpoints + max_drafts * engine.max_running
    num_slots = num_working + min(welcome, max(affordable, 0))
    for_slots = num_slots * layout.slot_bytes
    useful = _useful_pages(layout, engine.max_running, max_context)
    num_pages = min((engine.cache_bytes - for_slots) // layout.page_bytes, useful)
    if num_pages < 1:
        raise InvalidConfig(
            f"[engine] cache_bytes = {engine.cache_bytes} is too small: {num_slots} slots "
            f"take {for_slots} bytes and a page {layout.page_bytes}; raise it or lower max_running"
        )
    return PoolSizes(num_pages=num_pages, num_slots=num_slots)


def _useful_pages(layout: CacheLayout, max_running: int, max_context: int) -> int:
    """Running sequences at full length, and as many prefixes that stay."""
    return 2 * max_running * layout.num_pages_for(max_context)


def auto_cache_bytes(
    layout: CacheLayout,
    engine: EngineConfig,
    *,
    max_context: int,
    max_drafts: int,
    share_bytes: int,
) -> tuple[int, int]:
    """What "auto" comes to, of at most `share_bytes`, and how many sequences may run with it:
    `max_running`, or as many as half of it has slots for.
    """
    num_slots = (2 + max_drafts) * engine.max_running + engine.max_checkpoints
    num_pages = _useful_pages(layout, engine.max_running, max_context)
    useful = num_slots * layout.slot_bytes + num_pages * layout.page_bytes
    cache_bytes = min(share_bytes, useful)
    if engine.device == "cpu":
        least = 2 * 2 * engine.max_running * layout.slot_bytes
        cache_bytes = min(cache_bytes, max(MAX_AUTO_HOST_BYTES, least))
    affordable = cache_bytes // 2 // (2 * layout.slot_bytes)
    return cache_bytes, max(min(engine.max_running, affordable), 1)


def host_pool_sizes(layout: CacheLayout, engine: EngineConfig) -> PoolSizes:
    """A quarter of the budget is slots, the rest pages: nothing runs there, and a state at the end
    of each prefix is enough.

    Raises InvalidConfig when there is a budget and not even one of each fits.
    """
    num_slots = engine.host_cache_bytes // 4 // layout.slot_bytes
    num_pages = (engine.host_cache_bytes - num_slots * layout.slot_bytes) // layout.page_bytes
    if engine.host_cache_bytes and not (num_slots and num_pages):
        raise InvalidConfig(
            f"[engine] host_cache_bytes = {engine.host_cache_bytes} is too small: a slot takes "
            f"{layout.slot_bytes} bytes, of a quarter of it, and a page {layout.page_bytes}; "
            f"raise it, or set 0 for no host tier"
        )
    return PoolSizes(num_pages=num_pages, num_slots=num_slots)
