"""The prefixes and sessions that a worker keeps in both tiers, as its routers know them.

    memory changes ─▶ touched ─ settle ─▶ listed, and pending for every router ─ pieces ─▶ messages

Routers learn of a prefix where a turn may resume (a state), where a turn ended (a leaf) and where
prompts branch. Everything in between is part of a longer prefix. A prefix that the device has
dropped counts while the host has it: the worker loads it back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.types import SessionId
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.node import PageNode

# Most prefixes that routers know of; the least recently changed are dropped first. A router needs
# some 250 bytes for each.
_MAX_PREFIXES = 20_000
# Most prefixes and sessions in one message: they cost a router's event loop 0.3 ms and 1.5 ms.
_PIECE = 250
# Most changes that may collect while no router asks.
_MANY_TOUCHED = 50_000


class Inventory:
    """The event loop owns it, as it owns the caches."""

    def __init__(self, caches: Sequence[PrefixCache], *, max_prefixes: int = _MAX_PREFIXES) -> None:
        """`caches`: the device's first."""
        self._caches = caches
        self._max_prefixes = max_prefixes
        self._has_state: dict[bytes, bool] = {}
        """Whether a state is kept at the end of each listed prefix. By digest, the least recently
        changed first."""
        self._sessions: dict[SessionId, KeptSession] = {}
        self._touched: dict[bytes, None] = {}
        self._touched_sessions: dict[SessionId, None] = {}
        self._readers: set[InventoryReader] = set()
        for cache in caches:
            cache.tree.changed = self._node_changed
            cache.leases.changed = self._lease_changed

    def read(self) -> InventoryReader:
        """Returns a reader for one more router, which starts with everything listed. Close it at
        the end."""
        self.settle()
        reader = InventoryReader(self, self._has_state, self._sessions)
        self._readers.add(reader)
        return reader

    def close(self, reader: InventoryReader) -> None:
        self._readers.discard(reader)

    def settle(self) -> None:
        """Brings the lists up to date."""
        for cache in self._caches:
            # Nothing else ends a lease in time while no turn needs memory.
            cache.leases.expire_due()
        self._settle_prefixes()
        touched_sessions, self._touched_sessions = self._touched_sessions, {}
        for session_id in touched_sessions:
            self._list_session(session_id)

    def _node_changed(self, node: PageNode) -> None:
        if not node.digest:
            return  # The root.
        self._touched[node.digest] = None
        if len(self._touched) > _MANY_TOUCHED:
            self._settle_prefixes()

    def _lease_changed(self, session_id: SessionId) -> None:
        self._touched_sessions[session_id] = None

    def _settle_prefixes(self) -> None:
        touched, self._touched = self._touched, {}
        for digest in touched:
            self._list(digest, self._state_of(digest))
        while len(self._has_state) > self._max_prefixes:
            self._list(next(iter(self._has_state)), None)

    def _state_of(self, digest: bytes) -> bool | None:
        found = None
        for cache in self._caches:
            node = cache.tree.named(digest)
            if node is not None and node.checkpoint is not None:
                return True
            if node is not None and len(node.children) != 1:
                found = False
        return found

    def _list(self, digest: bytes, has_state: bool | None) -> None:
        if self._has_state.pop(digest, None) is not has_state:
            for reader in self._readers:
                reader.prefixes[digest] = None
        if has_state is not None:
            # Popped first, so that the order is that of the last change.
            self._has_state[digest] = has_state

    def _list_session(self, session_id: SessionId) -> None:
        lease = next((one for c in self._caches if (one := c.leases.get(session_id))), None)
        before = self._sessions.pop(session_id, None)
        now = None
        if lease is not None:
            state_tokens = lease.checkpoint.num_tokens if lease.checkpoint else 0
            now = self._sessions[session_id] = KeptSession(
                session_id, lease.num_tokens, state_tokens
            )
        if now != before:
            for reader in self._readers:
                reader.sessions[session_id] = None


class InventoryReader:
    """The changes that one router has not received yet."""

    def __init__(
        self,
        inventory: Inventory,
        has_state: Mapping[bytes, bool],
        sessions: Mapping[SessionId, KeptSession],
    ) -> None:
        self._inventory = inventory
        self._has_state, self._sessions = has_state, sessions
        self.prefixes: dict[bytes, None] = dict.fromkeys(has_state)
        self.sessions: dict[SessionId, None] = dict.fromkeys(sessions)

    def pieces(self) -> Iterator[KeptChanges]:
        """Everything that has changed, in messages of a bounded size."""
        self._inventory.settle()
        while self.prefixes or self.sessions:
            yield self._piece()

    def close(self) -> None:
        self._inventory.close(self)

    def _piece(self) -> KeptChanges:
        digests = list(itertools.islice(self.prefixes, _PIECE))
        names = list(itertools.islice(self.sessions, _PIECE - len(digests)))
        for digest in digests:
            del self.prefixes[digest]
        for name in names:
            del self.sessions[name]
        states = [(digest, self._has_state.get(digest)) for digest in digests]
        sessions = [(name, self._sessions.get(name)) for name in names]
        return KeptChanges(
            with_state=tuple([digest for digest, state in states if state]),
            without_state=tuple([digest for digest, state in states if state is False]),
            gone=tuple([digest for digest, state in states if state is None]),
            sessions=tuple([session for _, session in sessions if session is not None]),
            ended=tuple([name for name, session in sessions if session is None]),
        )
