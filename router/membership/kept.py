"""The prefixes of prompts that workers report to keep, and the sessions that they hold a lease for.

A worker reports to every router, whichever one ran the turn, and to a restarted router at once. So
any router places a session's next turn where the session is, and any prompt where its start is
cached. None of this is stored elsewhere, and clients take no part in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.placement.node import WorkerNode
from router.placement.side import NOTHING, Held, Residency
from router.sessions.history import TurnTokens
from router.sessions.record import Keeping, with_report
from router.sessions.table import SessionTable
from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.cluster.status import WorkerStatus
from segue.api.types import Epoch, Role, SessionId, WorkerId

# More than a healthy worker reports: a broken one must not fill the router's memory.
_MAX_OF_WORKER = 50_000
# Digests of more pages are computed in a thread: above about a millisecond.
_MANY_PAGES = 1_000


class _Copy(NamedTuple):
    """One worker's copy of a prefix."""

    worker_id: WorkerId
    epoch: Epoch
    has_state: bool


class KeptPrefixes:
    """The workers that hold a prefix, by its digest. One event loop owns it."""

    def __init__(self) -> None:
        self._copies: dict[bytes, tuple[_Copy, ...]] = {}
        self._of_worker: dict[WorkerId, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def take(self, worker: WorkerStatus, changes: KeptChanges) -> None:
        own = self._of_worker.setdefault(worker.worker_id, set())
        for has_state, digests in ((True, changes.with_state), (False, changes.without_state)):
            copy = _Copy(worker.worker_id, worker.epoch, has_state)
            for digest in digests:
                if digest in own:
                    self._drop(worker.worker_id, digest)
                elif len(own) >= _MAX_OF_WORKER:
                    continue
                own.add(digest)
                self._copies[digest] = (*self._copies.get(digest, ()), copy)
        for digest in changes.gone:
            if digest in own:
                own.remove(digest)
                self._drop(worker.worker_id, digest)

    def forget(self, worker_id: WorkerId) -> None:
        for digest in self._of_worker.pop(worker_id, ()):
            self._drop(worker_id, digest)

    def held(
        self, digests: Sequence[bytes], page_tokens: int, nodes: Mapping[WorkerId, WorkerNode]
    ) -> Residency:
        """What live workers hold of a prompt with these digests after each of its pages, least busy
        first."""
        found: dict[WorkerId, Held] = {}
        for num_pages, digest in enumerate(digests, 1):
            for worker_id, epoch, has_state in self._copies.get(digest, ()):
                node = nodes.get(worker_id)
                if node is None or node.is_lost or node.status.epoch != epoch:
                    continue
                tokens = num_pages * page_tokens
                state_tokens = found.get(worker_id, NOTHING).checkpoint_tokens
                found[worker_id] = Held(tokens, tokens if has_state else state_tokens)
        by_load = sorted(found, key=lambda worker_id: nodes[worker_id].running_turns)
        return {worker_id: found[worker_id] for worker_id in by_load}

    def _drop(self, worker_id: WorkerId, digest: bytes) -> None:
        others = tuple([copy for copy in self._copies[digest] if copy.worker_id != worker_id])
        if others:
            self._copies[digest] = others
        else:
            del self._copies[digest]


class KeptByWorkers:
    """Takes workers' reports. One event loop owns it."""

    def __init__(self, table: SessionTable) -> None:
        self.prefixes = KeptPrefixes()
        self._table = table

    def take(self, worker: WorkerStatus, changes: KeptChanges) -> None:
        self.prefixes.take(worker, changes)
        if worker.role is not Role.DECODE:
            return  # Only decode workers hold leases.
        for session in changes.sessions:
            self._leased(worker, session)
        for session_id in changes.ended:
            self._ended(worker, session_id)

    def _leased(self, worker: WorkerStatus, session: KeptSession) -> None:
        record = self._table.of(session.session_id)
        held = Held(session.tokens, session.checkpoint_tokens)
        record.decodes = with_report(record.decodes, Keeping.of(worker, held))
        if session.session_id not in self._table:
            # Where it ran last, as far as this router knows.
            record.decode_worker = worker.worker_id
            self._table.add(record)

    def _ended(self, worker: WorkerStatus, session_id: SessionId) -> None:
        record = self._table.of(session_id)
        if record.prefill_worker:
            return  # It had a turn here. What that left is still useful without a lease.
        record.decodes = tuple(one for one in record.decodes if one.worker_id != worker.worker_id)
        if not record.decodes:
            self._table.drop(session_id)


async def digests_of(prompt: TurnTokens) -> Sequence[bytes]:
    """The prompt's digests after each page that a cached prefix may cover."""
    digests, tokens = prompt.digests, prompt.tokens
    # The last token is always computed.
    num_pages = (len(tokens) - 1) // digests.page_tokens
    if num_pages - digests.num_known > _MANY_PAGES:
        return await asyncio.to_thread(digests.up_to_page, tokens, num_pages)
    return digests.up_to_page(tokens, num_pages)


def reaches_answer(
    reported: Residency, nodes: Mapping[WorkerId, WorkerNode], opening_tokens: int
) -> bool:
    """Whether a prompt continues where an answer ended, so it is not a new conversation.

    Beyond the shared prefix, the states that a decode worker keeps are in answers, or in prompt
    suffixes that it computed after one.
    """
    return any(
        held.checkpoint_tokens > opening_tokens and not nodes[worker_id].is_prefill
        for worker_id, held in reported.items()
    )


def merged(one: Residency, other: Residency) -> Residency:
    """What workers hold according to either. The order is that of `one`, then of `other`."""
    if not other:
        return one
    both = dict(one)
    for worker_id, held in other.items():
        known = both.get(worker_id, NOTHING)
        both[worker_id] = Held(
            max(known.resident_tokens, held.resident_tokens),
            max(known.checkpoint_tokens, held.checkpoint_tokens),
        )
    return both
