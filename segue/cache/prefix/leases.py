"""Leases mark sessions that will come back, so that their prefixes are evicted last.

A lease pins the last node of its session, and thereby all nodes above it, and the deepest
checkpoint on that path. It ends when the session is released, when it expires, or when memory is
needed and it is the least valuable lease. The session's next turn then costs more, nothing else.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, KeysView
from dataclasses import dataclass
from typing import Generic, TypeVar

from segue.api.errors import NotFound
from segue.api.types import SessionId
from segue.cache.prefix.node import Checkpoint, PageNode
from segue.cache.prefix.pins import Pins

Item = TypeVar("Item")
Keeps = TypeVar("Keeps", bound=Hashable)

Rank = tuple[float, int]
"""Worth, then the turn's number. The smallest rank is revoked first."""


class RevocationOrder(Generic[Item, Keeps]):
    """Chooses the next lease to revoke: the least valuable one whose last page, or state, is
    evictable.

        add ──▶ waiting, by cost and age ── first() ──▶ revoked
                     ▲                │
                     └── settled ── parked: others need what it keeps

    A lease that cannot give anything up is parked at the node or checkpoint that it keeps, until
    `settled` is called for that. So a revocation examines each lease about once, however many
    sessions there are.
    """

    def __init__(
        self,
        *,
        rank: Callable[[Item], Rank],
        keeps: Callable[[Item], Keeps | None],
        may_give_up: Callable[[Keeps], bool],
    ) -> None:
        """`rank` is unique and does not change while an item is here. `keeps` returns None for an
        item that has ended or has nothing left to give up: it is dropped.
        """
        self._rank = rank
        self._keeps = keeps
        self._may_give_up = may_give_up
        self._waiting: list[tuple[Rank, Item]] = []
        self._parked: dict[Keeps, list[Item]] = {}
        self._num_parked = 0

    def __len__(self) -> int:
        """May still count some items that have ended."""
        return len(self._waiting) + self._num_parked

    def add(self, item: Item) -> None:
        heapq.heappush(self._waiting, (self._rank(item), item))

    def first(self) -> Item | None:
        """The item to revoke. It stays here until `keeps` returns None for it."""
        while self._waiting:
            _, item = self._waiting[0]
            kept = self._keeps(item)
            if kept is not None and self._may_give_up(kept):
                return item
            heapq.heappop(self._waiting)
            if kept is not None:
                self._parked.setdefault(kept, []).append(item)
                self._num_parked += 1
        return None

    def settled(self, kept: Keeps) -> None:
        """Call when `may_give_up(kept)` may have become true."""
        if self._parked and kept in self._parked and self._may_give_up(kept):
            parked = self._parked.pop(kept)
            self._num_parked -= len(parked)
            for item in parked:
                self.add(item)

    def compact(self, num_live: int) -> None:
        """Drops ended items, if most items here have ended. Call it when one has ended."""
        if len(self) <= 2 * num_live + 64:
            return
        self._waiting = [entry for entry in self._waiting if self._keeps(entry[1]) is not None]
        heapq.heapify(self._waiting)
        for kept, parked in list(self._parked.items()):
            live = [item for item in parked if self._keeps(item) is not None]
            self._num_parked -= len(parked) - len(live)
            if live:
                self._parked[kept] = live
            else:
                del self._parked[kept]


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Lease:
    """Read-only outside `Leases`."""

    session_id: SessionId
    node: PageNode
    checkpoint: Checkpoint | None
    expires_at: float
    """By the cache's clock."""
    tick: int
    """Grows with each turn, but not with a renewal, which does not make the next turn likelier."""

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
        # Also holds entries of leases that were renewed or ended; `expire_due` skips them.
        self._expiries: list[tuple[float, int, Lease]] = []
        self._for_page = RevocationOrder[Lease, PageNode](
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
        self.changed: Callable[[SessionId], None] = lambda session_id: None
        """Set by `Inventory`: called when a lease was granted, ended, or lost its checkpoint."""
        self.num_revoked = 0
        """Leases, and checkpoints of leases, revoked under memory pressure. For a counter."""

    def __len__(self) -> int:
        return len(self._by_session)

    def all(self) -> tuple[Lease, ...]:
        """The live leases, oldest turn first."""
        self.expire_due()
        return tuple(sorted(self._by_session.values(), key=lambda lease: lease.tick))

    def sessions(self) -> KeysView[SessionId]:
        """The sessions with a live lease."""
        self.expire_due()
        return self._by_session.keys()

    def get(self, session_id: SessionId) -> Lease | None:
        self.expire_due()
        return self._by_session.get(session_id)

    def grant(self, session_id: SessionId, node: PageNode, expires_at: float) -> Lease:
        """Grants a lease, which replaces the session's earlier one."""
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
        self.changed(session_id)
        return lease

    def renew(self, session_id: SessionId, expires_at: float) -> None:
        """Raises NotFound if the lease has expired or was revoked."""
        lease = self._live(session_id)
        lease.expires_at = expires_at
        self._expires(lease)

    def fork(self, session_id: SessionId, child_id: SessionId) -> Lease:
        """Gives the child a lease like its parent's, with the same expiry. Raises NotFound."""
        parent = self._live(session_id)
        return self.grant(child_id, parent.node, parent.expires_at)

    def end(self, session_id: SessionId) -> bool:
        """Makes the leased memory evictable like any other. Returns whether there was a lease."""
        lease = self._by_session.pop(session_id, None)
        if lease is None:
            return False
        self._pins.unlease(lease.node, lease.checkpoint)
        self._for_page.compact(len(self))
        self._for_slot.compact(len(self))
        self.changed(session_id)
        return True

    def expire_due(self) -> None:
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, _, lease = heapq.heappop(self._expiries)
            if self._is_live(lease) and lease.expires_at == expires_at:
                self.end(lease.session_id)

    def revoke_for_page(self) -> bool:
        """Ends the least valuable lease whose last page is evictable. Returns False if none is."""
        lease = self._for_page.first()
        if lease is None:
            return False
        self.num_revoked += 1
        return self.end(lease.session_id)

    def revoke_for_slot(self) -> bool:
        """Unpins the checkpoint, but no page, of the least valuable lease that can give one up."""
        lease = self._for_slot.first()
        if lease is None or lease.checkpoint is None:
            return False
        self.num_revoked += 1
        self._pins.unlease_checkpoint(lease.checkpoint)
        lease.checkpoint = None
        self.changed(lease.session_id)
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
            raise no_lease(session_id)
        return lease


def no_lease(session_id: SessionId) -> NotFound:
    return NotFound(
        f"session {session_id} has no lease here: it expired, was released or was revoked"
    )
