"""Processor time of a worker and a router for reports of cached prefixes and sessions.

`python -m benchmarks.inventory` needs no model and no cluster.
"""

from __future__ import annotations

import functools
import random
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence

from router.membership.kept import KeptByWorkers
from router.placement.cluster import ClusterModel
from router.sessions.table import SessionTable
from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.cluster.status import WorkerStatus
from segue.api.prompt import PageDigests, Prompt
from segue.api.types import Epoch, Role, SessionId, WorkerId
from segue.cache.inventory import Inventory
from segue.cache.memory import Memory
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.unit_pool import UnitState
from segue.internal.v1 import worker_pb2 as pb
from segue.wire.convert.kept import kept_from_wire, kept_to_wire

NUM_TOKENS = 50_000
NUM_RECORDS = 10_000
_PIECE = 250
_PAGE = 16
_WORTH = EvictionCost(page=lambda node: 1.0, checkpoint=lambda state: 1.0, prefix=float)
_WORKER = WorkerStatus(
    worker_id=WorkerId("decode-0"), role=Role.DECODE, epoch=Epoch(1), address="127.0.0.1:1"
)


def best_ms(work: Callable[[], object], times: int = 7) -> float:
    return min(taken_ms(work) for _ in range(times))


def taken_ms(work: Callable[[], object]) -> float:
    started_at = time.thread_time()
    work()
    return (time.thread_time() - started_at) * 1e3


def lookups() -> Iterator[str]:
    source = random.Random(1)
    prompt = Prompt(array("I", [source.randrange(1_000) for _ in range(NUM_TOKENS)]))
    for page_tokens in (16, 64):
        ms = best_ms(functools.partial(_digests, prompt, page_tokens))
        yield f"digests of {NUM_TOKENS:,} tokens in pages of {page_tokens}: {ms:.2f} ms"
    digests = _digests(prompt, _PAGE)
    kept = KeptByWorkers(SessionTable(max_sessions=1, history_bytes=0))
    cluster = ClusterModel()
    cluster.update_worker(_WORKER)
    others = tuple(source.randbytes(16) for _ in range(NUM_RECORDS))
    kept.take(_WORKER, KeptChanges(with_state=(*others, digests[1_000], digests[-1])))
    ms = best_ms(lambda: kept.prefixes.held(digests, _PAGE, cluster.nodes))
    yield f"looking them up among {NUM_RECORDS:,} others: {ms:.2f} ms"


def _digests(prompt: Prompt, page_tokens: int) -> Sequence[bytes]:
    return PageDigests(page_tokens).up_to_page(prompt, len(prompt) // page_tokens)


def joining() -> Iterator[str]:
    """A worker with many prefixes and sessions joins a router."""
    starts = range(0, NUM_RECORDS, _PIECE)
    digests = [random.Random(index).randbytes(16) for index in range(NUM_RECORDS)]
    prefixes = [KeptChanges(with_state=tuple(digests[at : at + _PIECE])) for at in starts]
    leases = [
        tuple(
            KeptSession(SessionId(f"tenant/{number:032x}"), NUM_TOKENS, NUM_TOKENS - _PAGE)
            for number in range(at, at + _PIECE)
        )
        for at in starts
    ]
    for what, changes in (
        ("prefixes", prefixes),
        ("sessions", [KeptChanges(sessions=some) for some in leases]),
    ):
        messages = [kept_to_wire(one).SerializeToString() for one in changes]
        runs = [_joining_ms(messages) for _ in range(5)]
        # The best run of each message: another job may have interrupted the others.
        ms = [min(some) for some in zip(*runs, strict=True)]
        size = sum(map(len, messages)) / NUM_RECORDS
        yield (
            f"router: {NUM_RECORDS:,} {what} of {size:.0f} bytes in {len(messages)} messages: "
            f"{sum(ms):.1f} ms, the longest {max(ms):.2f} ms"
        )


def _joining_ms(messages: Sequence[bytes]) -> list[float]:
    kept = KeptByWorkers(SessionTable(max_sessions=NUM_RECORDS, history_bytes=0))
    return [taken_ms(functools.partial(_take, kept, message)) for message in messages]


def _take(kept: KeptByWorkers, message: bytes) -> None:
    kept.take(_WORKER, kept_from_wire(pb.KeptChanges.FromString(message)))


def _memory(num_pages: int) -> Memory:
    """A worker's cache, without bytes behind it."""
    return Memory.of(
        num_pages=num_pages, num_slots=1, page_tokens=_PAGE, worth=_WORTH, clock=time.monotonic
    )


def _keep(memory: Memory, first_token: int, num_tokens: int) -> None:
    prompt = Prompt(range(first_token, first_token + num_tokens))
    hold = memory.cache.hold_pages(memory.cache.match(prompt))
    own = memory.pages.take(num_tokens // _PAGE, UnitState.WORKING)
    memory.cache.insert(prompt, own, hold=hold, checkpoints={})
    memory.cache.release(hold)


def reporting() -> Iterator[str]:
    memory = _memory(NUM_RECORDS)
    inventory = Inventory([memory.cache])
    for number in range(NUM_RECORDS):
        _keep(memory, number * 100, _PAGE)
    inventory.settle()
    pieces = iter(inventory.read().pieces())
    ms = [taken_ms(lambda: kept_to_wire(next(pieces))) for _ in range(NUM_RECORDS // _PIECE)]
    yield (
        f"worker: {NUM_RECORDS:,} prefixes at a join in {len(ms)} messages: {sum(ms):.1f} ms, "
        f"the longest {max(ms):.2f} ms"
    )
    for has_inventory in (False, True):
        ms = [_evicting_ms(has_inventory=has_inventory) for _ in range(5)]
        what = "with an inventory" if has_inventory else "without"
        yield f"worker: evicting {NUM_TOKENS:,} tokens {what}: {min(ms):.1f} ms"


def _evicting_ms(*, has_inventory: bool) -> float:
    num_pages = NUM_TOKENS // _PAGE
    memory = _memory(num_pages)
    inventory = Inventory([memory.cache] if has_inventory else [])
    _keep(memory, 0, num_pages * _PAGE)
    inventory.settle()

    def evict() -> None:
        memory.cache.make_room(num_pages, 0)
        inventory.settle()

    return taken_ms(evict)


def main() -> None:
    for line in (*lookups(), *joining(), *reporting()):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
