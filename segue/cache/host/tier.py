"""The host tier behind the device's memory: cached prefixes are offloaded, and loaded when needed.

    a turn ends ── offload ──▶ both tiers have it ── evicted from the device ──▶ the host has it
                                      ▲                                               │
                                      └──────── load ◀── a turn needs it ◀────────────┘

Each tier has its own prefix cache, unit pools and eviction. Both treat a copy from one to the
other like a sequence (`copying.py`). Prefixes are offloaded as soon as their turn has ended,
not when memory is needed, which makes eviction instant.

The event loop owns all of it. One thread copies bytes, and does nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from segue.api.errors import UnknownPrefix
from segue.api.prompt import PrefixName, Prompt
from segue.cache.host.copying import Choose, Copying, MakeRoom, abandon, finish, start, what_is_new
from segue.cache.layout import CacheLayout, Unit
from segue.cache.memory import Memory
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.node import PageNode
from segue.cache.unit_pool import AccountingError

logger = logging.getLogger(__name__)

# Most bytes of one offload job on the copying thread: a load waits for at most one such job.
_PIECE_BYTES = 32 << 20
# Factor by which each load scales the weight of earlier ones in the measured speed.
_FADING = 0.8

CopyUnits = Callable[[Unit, Sequence[int], Sequence[int]], None]
"""Copies units of one tier into units of the other, by field. Runs on the copying thread."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """A worker's memory on its device and on the host. Without a host tier, `host` has no units."""

    device: Memory
    host: Memory
    layout: CacheLayout
    down: CopyUnits
    up: CopyUnits

    def find(self, prefix: PrefixName) -> Prompt:
        """The tokens of the named prefix, if either tier has it. Raises UnknownPrefix."""
        for memory in (self.device, self.host):
            if (prompt := memory.cache.tree.find(prefix)) is not None:
                return prompt
        raise UnknownPrefix(
            f"no prefix of {prefix.num_tokens} tokens with digest {prefix.digest.hex()} is here: "
            "send the whole prompt"
        )


class HostTier:
    def __init__(
        self,
        tiers: Tiers,
        *,
        freed: Callable[[], None],
        loaded: Callable[[int, float], None],
        clock: Callable[[], float],
    ) -> None:
        """`freed` is called when memory pinned by a copy becomes evictable; `loaded` is called
        after every load, with its tokens and seconds.
        """
        self.num_offloaded_tokens = 0
        self.memory, self.cache = tiers.host, tiers.host.cache
        """The host's."""
        self._device, self._layout = tiers.device, tiers.layout
        self._down, self._up = tiers.down, tiers.up
        self._freed = freed
        self._loaded = loaded
        self._clock = clock
        # Assumed before anything is measured: 2 GB/s.
        self._measured_bytes, self._measured_s = 1e6, 5e-4
        self._under_way: set[Copying] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        # One load at a time, so that a second load of the same prefix finds it on the device.
        self._loading, self._offloading = asyncio.Lock(), asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "cache-copy")

    @property
    def is_enabled(self) -> bool:
        return self.memory.pages.total > 0

    async def load(
        self,
        prefix: Prompt,
        choose: Choose,
        make_room: MakeRoom = PrefixCache.make_room,
    ) -> None:
        """Loads what `choose` selects of a prefix to the device, as far as there is room.

        Nothing is held afterwards, so hold it at once. If the caller is cancelled, the copy still
        completes.
        """
        if self.is_enabled and self._lacks(prefix, choose):
            await asyncio.shield(self._spawn(self._load(prefix, choose, make_room)))

    def load_s(self, num_pages: int, num_slots: int) -> float:
        """Expected seconds of a load of this size, from measured loads."""
        num_bytes = self._layout.num_bytes(num_pages, num_slots)
        return num_bytes * self._measured_s / self._measured_bytes

    def prefix_load_s(self, num_tokens: int) -> float:
        """Expected seconds of a load of a whole prefix with a state."""
        return self.load_s(self._layout.num_pages_for(num_tokens), 1)

    def offload(self, node: PageNode) -> asyncio.Task[PageNode | None]:
        """Offloads what the host lacks of a prefix, pages and new states, in the background.

        Returns the prefix's last node that the host has afterwards. Returns None without a host
        tier, or if the prefix was evicted from the device before the copy could start.
        """
        return self._spawn(self._offload(node))

    def owners(self) -> set[str]:
        """The copies in progress: each owns the units that it writes, in either tier."""
        return {copying.owner for copying in self._under_way}

    def check_invariants(self) -> None:
        """Checks the host tier: its WORKING units are exactly those being copied to it.

        Raises AccountingError.
        """
        self.memory.check_invariants()
        arriving = [copying for copying in self._under_way if copying.target is self.memory]
        moving = sum(len(c.to_pages) for c in arriving), sum(len(c.to_slots) for c in arriving)
        working = self.memory.pages.counts().working, self.memory.slots.counts().working
        if working != moving:
            raise AccountingError(f"{working} host pages and slots working, {moving} on the way")

    async def close(self) -> None:
        """Waits for the copies in progress."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown()

    def _lacks(self, prefix: Prompt, choose: Choose) -> bool:
        here = self._device.cache.find(prefix)
        wanted = choose(self.cache.find(prefix), here)
        return wanted.num_tokens > here.num_tokens or bool(wanted.checkpoints)

    async def _load(self, prefix: Prompt, choose: Choose, make_room: MakeRoom) -> None:
        async with self._loading:
            copying = start(self.memory, self._device, prefix, choose=choose, make_room=make_room)
            started_at = self._clock()
            await self._copy(copying, self._up, len(copying.to_pages))
            seconds = self._clock() - started_at
        if copying.num_units:
            self._measure(copying, seconds)
            self._loaded(len(copying.to_pages) * self._layout.page_tokens, seconds)

    async def _offload(self, node: PageNode) -> PageNode | None:
        async with self._offloading:
            if not self.is_enabled or node.parent is None:
                return node.twin if node.has_twin else None
            prefix = self._device.cache.tree.prompt(node)
            copying = start(self._device, self.memory, prefix, choose=what_is_new)
            last = await self._copy(copying, self._down, _PIECE_BYTES // self._layout.page_bytes)
        self.num_offloaded_tokens += len(copying.to_pages) * self._layout.page_tokens
        return last

    async def _copy(self, copying: Copying, copy: CopyUnits, pages_at_once: int) -> PageNode:
        """Copies the bytes. Until it returns, the units have no other user."""
        self._under_way.add(copying)
        last = None
        try:
            await self._on_thread(copy, Unit.SLOT, copying.from_slots, copying.to_slots)
            step = max(pages_at_once, 1)
            for at in range(0, len(copying.to_pages), step):
                piece = slice(at, at + step)
                await self._on_thread(
                    copy, Unit.PAGE, copying.from_pages[piece], copying.to_pages[piece]
                )
            last = finish(copying)
        finally:
            self._under_way.remove(copying)
            if last is None:
                abandon(copying)
            self._freed()
        return last

    async def _on_thread(
        self, copy: CopyUnits, unit: Unit, from_units: Sequence[int], to_units: Sequence[int]
    ) -> None:
        if from_units:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, copy, unit, from_units, to_units)

    def _measure(self, copying: Copying, seconds: float) -> None:
        num_bytes = self._layout.num_bytes(len(copying.to_pages), len(copying.to_slots))
        self._measured_bytes = self._measured_bytes * _FADING + num_bytes
        self._measured_s = self._measured_s * _FADING + seconds

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a copy between the tiers failed", exc_info=error)
