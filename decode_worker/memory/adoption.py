"""Adopts sessions from a worker that drains: pulls their pages and states, and leases them.

A pull is the same handoff as a prefill worker's, between two decode workers. One of a session's
prefixes after another is fetched, each with the state at its end. A pulled session never takes
memory that this worker's own sessions lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from decode_worker.memory.residency import Residency
from kv_transfer.exchange import Exchange
from kv_transfer.prefix_fetch import PrefixFetcher
from kv_transfer.ticket import PeerIdentity
from segue.api.checks import require
from segue.api.cluster.drain import Adopted
from segue.api.errors import DeadlineExceeded, Overloaded, SegueError
from segue.api.prompt import PrefixName, Prompt
from segue.api.types import SessionId, TurnId
from segue.cache.layout import CacheLayout
from segue.cache.memory import Memory
from segue.process.cancellation import Interruptible


class Adoptions:
    """The event loop owns it."""

    def __init__(
        self,
        exchange: Exchange,
        memory: Memory,
        residency: Residency,
        layout: CacheLayout,
    ) -> None:
        self._exchange = exchange
        self._memory = memory
        self._residency = residency
        self._fetcher = PrefixFetcher(exchange, memory, layout)
        self._running: dict[TurnId, Interruptible] = {}
        self._numbers = itertools.count(1)

    def owners(self) -> set[TurnId]:
        """The owners of units that are being fetched."""
        return set(self._running)

    async def adopt(
        self,
        session_id: SessionId,
        source: PeerIdentity,
        prefixes: Sequence[PrefixName],
        *,
        lease_s: float,
        timeout_s: float,
    ) -> Adopted:
        """Pulls what is missing here of a session, and leases it, unless it has had a turn here
        meanwhile.

        Raises Overloaded if there is no room or nothing is kept here, NotFound if `source` has
        evicted a state, DeadlineExceeded, InvalidRequest, and what `Exchange.fetch` raises. What
        had arrived then is ordinary cache.
        """
        page_tokens = self._memory.cache.tree.page_tokens
        require(
            all(prefix.num_tokens % page_tokens == 0 for prefix in prefixes),
            f"a session's prefixes must end pages of {page_tokens} tokens, got "
            f"{[prefix.num_tokens for prefix in prefixes]}",
        )
        owner = TurnId(f"adoption-{next(self._numbers)}")
        work = self._running[owner] = Interruptible()
        try:
            async with asyncio.timeout(timeout_s):
                return await work.run(self._adopt(owner, session_id, source, prefixes, lease_s))
        except TimeoutError:
            raise DeadlineExceeded(
                f"a session of {prefixes[-1].num_tokens} tokens did not arrive within "
                f"{timeout_s:g} s from {source.worker_id}"
            ) from None
        finally:
            del self._running[owner]

    async def stop(self, error: SegueError) -> None:
        """Ends all adoptions with the error."""
        running = list(self._running.values())
        for work in running:
            work.interrupt(error)
        for work in running:
            await work.over.wait()

    async def _adopt(
        self,
        owner: TurnId,
        session_id: SessionId,
        source: PeerIdentity,
        prefixes: Sequence[PrefixName],
        lease_s: float,
    ) -> Adopted:
        if not self._residency.keeps:
            raise Overloaded("[decode] residency is off here: no session is taken over")
        await self._exchange.members.require(source)
        cache = self._memory.cache
        lease_before = cache.leases.get(session_id)
        tokens = await self._exchange.read(source, prefixes[-1])
        moved_bytes, fetched = 0, []
        with contextlib.ExitStack() as holds:
            for prefix in prefixes:
                part = tokens[: prefix.num_tokens]
                if not self._has_state(part):
                    moved_bytes += await self._fetch(owner, source, part)
                    fetched.append(prefix.num_tokens)
                # Held until the lease protects them: the next fetch makes room.
                holds.callback(cache.release, cache.hold_checkpoint(cache.find(part)))
            node = cache.find(tokens).node
            lease = cache.leases.get(session_id)
            # A turn of the session here is newer, and its lease reaches further.
            is_newer = lease is not None and node in lease.node.upwards()
            if lease is lease_before and not is_newer:
                self._residency.adopt(session_id, node, fetched, lease_s)
        return Adopted(
            kept_tokens=node.num_tokens, kept_states=node.states(), moved_bytes=moved_bytes
        )

    def _has_state(self, tokens: Prompt) -> bool:
        checkpoint = self._memory.cache.find(tokens).checkpoint
        return checkpoint is not None and checkpoint.num_tokens == len(tokens)

    async def _fetch(self, owner: TurnId, source: PeerIdentity, tokens: Prompt) -> int:
        """Returns the bytes that were moved."""
        cache = self._memory.cache
        # At least one page comes with the state: the one at whose end it is.
        hold = cache.hold_pages(cache.find(tokens, len(tokens) - 1))
        try:
            num_pages = self._fetcher.num_missing_pages(tokens, hold)
            if not cache.make_spare_room(num_pages, 1):
                raise Overloaded(
                    f"a session needs {num_pages} pages and a slot, and fewer are free here or "
                    "leased by no session: it is not moved here"
                )
            return await self._fetcher.fetch(owner, source, tokens, hold)
        finally:
            cache.release(hold)
