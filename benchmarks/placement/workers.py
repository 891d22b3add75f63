"""Simulated workers: a queue, a speed, and too little memory."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from benchmarks.placement.workload import DECODE_TOKENS, PAGE_TOKENS, PREFILL_TOKENS, SLOT_TOKENS
from segue.api.cluster.status import UnitCounts, WorkerLoad, WorkerStatus
from segue.api.types import Epoch, Role, WorkerId


@dataclass(slots=True)
class SimWorker:
    worker_id: WorkerId
    role: Role
    slowness: float
    free_at: float = 0.0
    busy_s: float = 0.0
    waiting_tokens: int = 0
    running_turns: int = 0
    working_tokens: int = 0
    cached_tokens: int = 0
    num_evicted: int = 0
    cache: collections.OrderedDict[int, int] = field(default_factory=collections.OrderedDict)
    """Tokens by session, least recently used first. Each has a state."""

    @property
    def capacity_tokens(self) -> int:
        return PREFILL_TOKENS if self.role is Role.PREFILL else DECODE_TOKENS

    def held(self, session: int) -> int:
        return self.cache.get(session, 0)

    def keep(self, session: int, num_tokens: int) -> None:
        """Caches a prefix, in whole pages; evicts the least recently used."""
        self.drop(session)
        num_tokens -= num_tokens % PAGE_TOKENS
        self.cache[session] = num_tokens
        self.cached_tokens += num_tokens + SLOT_TOKENS
        self._evict()

    def drop(self, session: int) -> None:
        num_tokens = self.cache.pop(session, None)
        if num_tokens is not None:
            self.cached_tokens -= num_tokens + SLOT_TOKENS

    def start(self, num_tokens: int) -> None:
        self.running_turns += 1
        self.working_tokens += num_tokens + SLOT_TOKENS
        self._evict()

    def end(self, num_tokens: int) -> None:
        self.running_turns -= 1
        self.working_tokens -= num_tokens + SLOT_TOKENS

    def _evict(self) -> None:
        while self.cache and self.cached_tokens + self.working_tokens > self.capacity_tokens:
            _, num_tokens = self.cache.popitem(last=False)
            self.cached_tokens -= num_tokens + SLOT_TOKENS
            self.num_evicted += 1

    def status(self) -> WorkerStatus:
        total = self.capacity_tokens // PAGE_TOKENS
        working = self.working_tokens // PAGE_TOKENS
        cached = self.cached_tokens // PAGE_TOKENS
        return WorkerStatus(
            worker_id=self.worker_id,
            role=self.role,
            epoch=Epoch(1),
            address=self.worker_id,
            load=WorkerLoad(
                pages=UnitCounts(
                    total=total,
                    free=max(total - working - cached, 0),
                    working=working,
                    cached=cached,
                ),
                running_turns=self.running_turns,
                waiting_tokens=self.waiting_tokens,
            ),
        )
