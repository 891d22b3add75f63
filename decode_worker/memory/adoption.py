"""Adopts sessions from a worker that drains: pulls their pages and states, and leases them.

A pull is the same handoff as a prefill worker's, between two decode workers. A session's prefixes
are fetched one after another, each with the state at its end. A pulled session never takes memory
that this worker's own sessions lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from decode_worker.memory.residency import Residency
from kv_transfer.exchange import Exchange
from kv_transfer.ticket import PeerIdentity
from segue.api.checks import require
from segue.api.cluster.drain import Adopted, HeldSession
from segue.api.errors import DeadlineExceeded, Overloaded, SegueError
from segue.api.prompt import Prompt
from segue.api.types import TurnId
from segue.cache.prefix.cache import PrefixCache
from segue.process.cancellation import Interruptible


class Adoptions:
    """The event loop owns it."""

    def __init__(self, exchange: Exchange, cache: PrefixCache, residency: Residency) -> None:
        self._exchange = exchange
        self._cache = cache
        self._residency = residency
        self._running: dict[TurnId, Interruptible] = {}
        self._numbers = itertools.count(1)

    def owners(self) -> set[TurnId]:
        """The owners of units that are being fetched."""
        return set(self._running)

    async def adopt(
        self, session: HeldSession, source: PeerIdentity, *, timeout_s: float
    ) -> Adopted:
        """Pulls the missing parts of a session, and leases it, unless it has had a turn here since.

        Raises Overloaded if there is no room or residency is off here, NotFound if `source` has
        evicted a state, DeadlineExceeded, InvalidRequest, and what `Exchange.fetch` raises. The
        parts that had arrived are then ordinary cache.
        """
        page_tokens = self._cache.tree.page_tokens
        lengths = [prefix.num_tokens for prefix in session.prefixes]
        require(
            all(num_tokens % page_tokens == 0 for num_tokens in lengths),
            f"a session's prefixes must end pages of {page_tokens} tokens, got {lengths}",
        )
        owner = TurnId(f"adoption-{next(self._numbers)}")
        work = self._running[owner] = Interruptible()
        try:
            async with asyncio.timeout(timeout_s):
                return await work.run(self._adopt(owner, session, source))
        except TimeoutError:
            raise DeadlineExceeded(
                f"a session of {lengths[-1]} tokens did not arrive within "
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

    async def _adopt(self, owner: TurnId, session: HeldSession, source: PeerIdentity) -> Adopted:
        if not self._residency.keeps:
            raise Overloaded("[decode] residency is off here: no session is taken over")
        await self._exchange.members.require(source)
        cache = self._cache
        lease_before = cache.leases.get(session.session_id)
        tokens = await self._exchange.read(source, session.prefixes[-1])
        moved_bytes, fetched = 0, []
        with contextlib.ExitStack() as holds:
            for prefix in session.prefixes:
                part = tokens[: prefix.num_tokens]
                if not self._has_state(part):
                    moved_bytes += await self._fetch(owner, source, part)
                    fetched.append(prefix.num_tokens)
                # Held until the lease protects them: the next fetch makes room.
                holds.callback(cache.release, cache.hold_checkpoint(cache.find(part)))
            node = cache.find(tokens).node
            lease = cache.leases.get(session.session_id)
            # A turn of the session here is newer, and its lease reaches further.
            is_newer = lease is not None and node in lease.node.upwards()
            if lease is lease_before and not is_newer:
                self._residency.adopt(session.session_id, node, fetched, session.expires_in_s)
        return Adopted(
            kept_tokens=node.num_tokens, kept_states=node.states(), moved_bytes=moved_bytes
        )

    def _has_state(self, tokens: Prompt) -> bool:
        checkpoint = self._cache.find(tokens).checkpoint
        return checkpoint is not None and checkpoint.num_tokens == len(tokens)

    async def _fetch(self, owner: TurnId, source: PeerIdentity, tokens: Prompt) -> int:
        """Returns the bytes that were moved."""
        cache = self._cache
        # Fetches at least one page with the state: the page at whose end it is.
        hold = cache.hold_pages(cache.find(tokens, len(tokens) - 1))
        try:
            num_pages = (len(tokens) - hold.num_tokens) // cache.tree.page_tokens
            if not cache.make_spare_room(num_pages, 1):
                raise Overloaded(
                    f"a session needs {num_pages} pages and a slot, and fewer are free here or "
                    "leased by no session: it is not moved here"
                )
            return await self._exchange.fetch(owner, source, tokens, hold)
        finally:
            cache.release(hold)
