"""Writes into other processes' memory: slow, failing or corrupting, and watched.

A write takes virtual time. Its bytes arrive in two halves, and while it is in flight its target
must be reserved, or in quarantine, for one and the same turn.
"""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Iterator, Sequence

from kv_transfer.layout import MemoryMap
from kv_transfer.transport.loopback import LoopbackNetwork
from kv_transfer.writing.plan import Fragment
from segue.api.errors import TransferFailed
from segue.cache.layout import Unit
from segue.cache.memory import Memory
from segue.cache.unit_pool import UnitState
from tests.virtual.threads import process_of_thread, sleep_in_thread


class WatchedMemory(LoopbackNetwork):
    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.memories: dict[str, tuple[MemoryMap, Memory]] = {}
        self.wrong_writes: list[str] = []
        self.num_failing = 0
        self.num_corrupting = 0
        self._draw = draw

    def move(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        process = process_of_thread()
        sleep_in_thread(self._draw.uniform(0.0001, 0.002))
        if process.is_dead:
            raise TransferFailed("the writer's process has ended")
        before = list(self._targets(target_segment, fragments))
        self._copy(target_segment, fragments[::2])
        # In flight.
        sleep_in_thread(self._draw.choice((0.0005, 0.002, 0.01, 0.2)))
        if process.is_dead:
            raise TransferFailed("the writer's process has ended")
        if list(self._targets(target_segment, fragments)) != before:
            self.wrong_writes.append(f"{target_segment}: {before} changed owners during a write")
        if self.num_failing:
            self.num_failing -= 1
            raise TransferFailed("failed on command")
        self._copy(target_segment, fragments[1::2])
        if self.num_corrupting:
            self.num_corrupting -= 1
            # The exponent of a float: the fake model would not notice a change in its last bits.
            high = ctypes.c_ubyte.from_address(fragments[0].target_address + 3)
            high.value ^= 0x7F

    def _copy(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        for fragment in fragments:
            self._require_registered(target_segment, fragment)
            ctypes.memmove(fragment.target_address, fragment.source_address, fragment.num_bytes)

    def _targets(self, target_segment: str, fragments: Sequence[Fragment]) -> Iterator[str]:
        """The owner of each unit that is written."""
        if target_segment not in self.regions:
            raise TransferFailed(f"no process has the segment {target_segment}")
        memory_map, memory = self.memories[target_segment]
        for fragment, region in itertools.product(fragments, memory_map.regions()):
            pool = memory.pages if region.field.unit is Unit.PAGE else memory.slots
            offset = fragment.target_address - region.base_address
            if not 0 <= offset < region.num_bytes:
                continue
            first = offset // region.field.unit_bytes
            for unit in range(first, first + fragment.num_bytes // region.field.unit_bytes):
                state = pool.state_of(unit)  # type: ignore[arg-type]  # either id
                if state not in (UnitState.RESERVED, UnitState.QUARANTINED):
                    self.wrong_writes.append(f"{region.field.unit} {unit} is {state}")
                yield pool._owners[unit]
