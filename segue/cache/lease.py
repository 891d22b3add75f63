"""Leases: sessions that will come back, and whose prefix is therefore evicted last.

A lease names the last node of its session; all nodes above stay with it, and so does the deepest
checkpoint on the way. It ends when it is given up, when it expires, or when memory is needed and it
is the least valuable one. The session then costs more, and loses nothing else.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, KeysView
from dataclasses import dataclass

from segue.cache.node import Checkpoint, Node
from segue.cache.pins import Pins
from segue.cache.revocation import Rank, RevocationOrder
from segue.errors import NotFound
from segue.types import SessionId


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Lease:
    """For reading; `Leases` alone changes it."""

    session_id: SessionId
    node: Node
    checkpoint: Checkpoint | None
    expires_at: float
    """In the time of the cache's clock."""
    tick: int
    """Grows from turn to turn. Heartbeats do not count: they say nothing about the next turn."""

    @property
    def num_tokens(self) -> int:
        return self.node.num_tokens


class Leases:
    def __init__(
        self, pins: Pins, prefix_worth: Callable[[int], float], clock: Callable[[], float]
    ) -> None:
        self._pins = pins
        self._prefix_worth = prefix_worth
        self._clock = clock
        self._ticks = itertools.count(1)
        self._by_session: dict[SessionId, Lease] = {}
        # Also holds entries of leases that were renewed or ended: they are skipped.
        self._expiries: list[tuple[float, int, Lease]] = []
        self._for_page = RevocationOrder[Lease, Node](
            rank=self._rank,
            keeps=lambda lease: lease.node if self._is_live(lease) else None,
            may_give_up=lambda node: not (node.children or node.num_holds),
        )
        self._for_slot = RevocationOrder[Lease, Checkpoint](
            rank=self._rank,
            keeps=lambda lease: lease.checkpoint if self._is_live(lease) else None,
            may_give_up=lambda checkpoint: not checkpoint.num_holds,
        )
        pins.node_settled = self._for_page.settled
        pins.checkpoint_settled = self._for_slot.settled
        self.num_revoked = 0
        """Leases, or checkpoints of leases, that memory pressure took. For a counter."""

    def __len__(self) -> int:
        return len(self._by_session)

    def all(self) -> tuple[Lease, ...]:
        """The live ones, oldest turn first."""
        self.expire_due()
        return tuple(sorted(self._by_session.values(), key=lambda lease: lease.tick))

    def sessions(self) -> KeysView[SessionId]:
        """Who has a live lease."""
        self.expire_due()
        return self._by_session.keys()

    def get(self, session_id: SessionId) -> Lease | None:
        self.expire_due()
        return self._by_session.get(session_id)

    def grant(self, session_id: SessionId, node: Node, expires_at: float) -> Lease:
        """Replaces the lease that the session has."""
        lease = Lease(
            session_id=session_id,
            node=node,
            checkpoint=node.nearest_checkpoint(),
            expires_at=expires_at,
            tick=next(self._ticks),
        )
        self._pins.lease(lease.node, lease.checkpoint)
        self.end(session_id)
        self._by_session[session_id] = lease
        self._for_page.add(lease)
        self._for_slot.add(lease)
        self._expires(lease)
        return lease

    def renew(self, session_id: SessionId, expires_at: float) -> None:
        """Raises NotFound when the lease has expired or was revoked."""
        lease = self._live(session_id)
        lease.expires_at = expires_at
        self._expires(lease)

    def fork(self, session_id: SessionId, child_id: SessionId) -> Lease:
        """A lease of the child on all that the parent has, for as long. Raises NotFound."""
        parent = self._live(session_id)
        return self.grant(child_id, parent.node, parent.expires_at)

    def end(self, session_id: SessionId) -> bool:
        """What was leased becomes ordinary. Returns whether there was a lease."""
        lease = self._by_session.pop(session_id, None)
        if lease is None:
            return False
        self._pins.unlease(lease.node, lease.checkpoint)
        self._for_page.compact(len(self))
        self._for_slot.compact(len(self))
        return True

    def expire_due(self) -> None:
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, _, lease = heapq.heappop(self._expiries)
            if self._is_live(lease) and lease.expires_at == expires_at:
                self.end(lease.session_id)

    def revoke_for_page(self) -> bool:
        """Ends the least valuable lease whose last page can go. Returns whether there was one."""
        lease = self._for_page.first()
        if lease is None:
            return False
        self.num_revoked += 1
        return self.end(lease.session_id)

    def revoke_for_slot(self) -> bool:
        """Takes the checkpoint, and no page, from the least valuable lease that can give one up."""
        lease = self._for_slot.first()
        if lease is None or lease.checkpoint is None:
            return False
        self.num_revoked += 1
        self._pins.unlease_checkpoint(lease.checkpoint)
        lease.checkpoint = None
        return True

    def _rank(self, lease: Lease) -> Rank:
        return self._prefix_worth(lease.num_tokens), lease.tick

    def _is_live(self, lease: Lease) -> bool:
        return self._by_session.get(lease.session_id) is lease

    def _expires(self, lease: Lease) -> None:
        heapq.heappush(self._expiries, (lease.expires_at, next(self._ticks), lease))
        if len(self._expiries) > 2 * len(self) + 64:
            live = self._by_session.values()
            self._expiries = [(lease.expires_at, lease.tick, lease) for lease in live]
            heapq.heapify(self._expiries)

    def _live(self, session_id: SessionId) -> Lease:
        lease = self.get(session_id)
        if lease is None:
            raise NotFound(
                f"session {session_id} has no lease here: it expired, was released or was revoked"
            )
        return lease
