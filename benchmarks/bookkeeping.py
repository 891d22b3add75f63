"""The cost of ticket and lease bookkeeping to an event loop, after many turns and after few.

`python -m benchmarks.bookkeeping` reserves and commits a handoff after a number of others have
ended, and renews, looks up and revokes a lease among a number of sessions. It prints a row per
number. No model and no network: this is what a turn pays for the turns before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import typer

from benchmarks.harness.output import markdown
from kv_transfer.layout import MemoryMap
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import PeerIdentity
from segue.api.prompt import Prompt
from segue.api.types import Epoch, SessionId, TurnId, WorkerId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.memory import Memory, UnitPools
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.eviction_cost import cost_to_decode
from segue.cache.unit_pool import UnitState, page_pool, slot_pool

_PAGE_TOKENS = 16
_LAYOUT = CacheLayout(
    model_id="none",
    page_tokens=_PAGE_TOKENS,
    fields=(
        CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(16,)),
        CacheField(group="recurrent", layer=1, unit=Unit.SLOT, dtype="float32", shape=(64,)),
    ),
)
_WRITER = PeerIdentity(worker_id=WorkerId("prefill-0"), epoch=Epoch(1), address="127.0.0.1:1")
_NUM_MEASURED = 100
_PAST_TICKETS = (100, 10_000, 40_000)
_SESSIONS = (100, 1_000, 10_000)


class _Tickets:
    def __init__(self) -> None:
        self._pools = UnitPools(pages=page_pool(64), slots=slot_pool(8))
        memory_map = MemoryMap(
            worker_id=WorkerId("decode-0"),
            epoch=Epoch(1),
            segment="nowhere",
            layout=_LAYOUT,
            base_addresses=(0, 0),
            num_units=(64, 8),
        )
        self._reader = HandoffReader(
            pools=self._pools,
            memory_map=memory_map,
            address="127.0.0.1:1",
            verify_checksums=False,
        )
        self.num_past = 0

    async def turn(self) -> None:
        reservation = self._reader.reserve(
            TurnId(f"turn-{self.num_past}"),
            num_prompt_tokens=40,
            extra_tokens=20,
            writer=_WRITER,
            lifetime_s=600.0,
        )
        await self._reader.commit(reservation.ticket.ticket_id, Epoch(1), {})
        arrival = await reservation.arrived()
        self._pools.give_back(arrival.pages, [arrival.slot])
        self.num_past += 1


async def _tickets() -> str:
    """Milliseconds for a reservation and its commit."""
    rows = []
    desk = _Tickets()
    for num_past in _PAST_TICKETS:
        while desk.num_past < num_past:
            await desk.turn()
        started_at = time.perf_counter()
        for _ in range(_NUM_MEASURED):
            await desk.turn()
        rows.append((f"{num_past:,}", _ms(started_at)))
    return markdown("past tickets | reserve + commit", rows)


def _sessions(num_sessions: int) -> PrefixCache:
    """This number of leases, each on a page and a state."""
    memory = Memory.of(
        num_pages=num_sessions,
        num_slots=num_sessions,
        page_tokens=_PAGE_TOKENS,
        worth=cost_to_decode(_LAYOUT, float, link_bytes_per_s=1e9),
        clock=time.monotonic,
    )
    cache = memory.cache
    for session in range(num_sessions):
        tokens = range(session * _PAGE_TOKENS, (session + 1) * _PAGE_TOKENS)
        hold = cache.hold_pages(cache.match(Prompt()))
        pages = memory.pages.take(1, UnitState.WORKING)
        (slot,) = memory.slots.take(1, UnitState.WORKING)
        cache.insert(Prompt(tokens), pages, hold=hold, checkpoints={_PAGE_TOKENS: slot})
        cache.leases.grant(SessionId(str(session)), hold.node, time.monotonic() + 600.0)
        cache.release(hold)
    return cache


def _leases() -> str:
    """Milliseconds for a renewal, a look-up, and for revoking a lease to free a page."""
    rows = []
    for num_sessions in _SESSIONS:
        cache = _sessions(num_sessions)
        leases = cache.leases
        sessions = [SessionId(str(session)) for session in range(num_sessions)][-_NUM_MEASURED:]
        renew = _mean(lambda i, s=sessions, held=leases: held.renew(s[i], time.monotonic() + 600.0))
        get = _mean(lambda i, s=sessions, held=leases: held.get(s[i]))
        revoke = _mean(lambda i, own=cache: own.make_room(i + 1, 0))
        rows.append((f"{num_sessions:,}", renew, get, revoke))
    return markdown("sessions | renew | get | revoke", rows)


def _mean(call: Callable[..., object]) -> str:
    """The mean over `call(0)`, `call(1)`, and so on."""
    started_at = time.perf_counter()
    for i in range(_NUM_MEASURED):
        call(i)
    return _ms(started_at)


def _ms(started_at: float) -> str:
    return f"{(time.perf_counter() - started_at) / _NUM_MEASURED * 1e3:.3f} ms"


def main() -> None:
    typer.echo(f"{asyncio.run(_tickets())}\n\n{_leases()}")


if __name__ == "__main__":
    main()
