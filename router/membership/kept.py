"""What workers report to keep: which prefixes of prompts, and which sessions have a lease there.

A worker reports to every router, whichever one ran the turn, and to a restarted router at once. So
any router places a session's next turn where the session is, and any prompt where the start of it
is. Nothing of this is stored elsewhere, and clients hold nothing for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.placement.node import WorkerNode
from router.placement.side import NOTHING, Held, Residency
from router.sessions.history import TurnTokens
from router.sessions.table import Keeping, SessionTable
from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.cluster.status import WorkerStatus
from segue.api.types import Epoch, Role, SessionId, WorkerId

# More than a worker reports: one that is broken must not fill the router's memory.
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

    def joined(self, worker: WorkerStatus) -> None:
        """A new stream of the worker starts with everything that it keeps."""
        self.prefixes.forget(worker.worker_id)

    def take(self, worker: WorkerStatus, changes: KeptChanges) -> None:
        self.prefixes.take(worker, changes)
        if worker.role is not Role.DECODE:
            return  # Only decode workers have leases.
        for session in changes.sessions:
            self._leased(worker, session)
        for session_id in changes.ended:
            self._ended(worker, session_id)

    def gone(self, worker: WorkerStatus) -> None:
        """The worker left or was forgotten."""
        self.prefixes.forget(worker.worker_id)

    def _leased(self, worker: WorkerStatus, session: KeptSession) -> None:
        record = self._table.of(session.session_id)
        record.decodes = with_report(record.decodes, _keeping(worker, session))
        if session.session_id not in self._table:
            # Where it ran last, as far as is known here.
            record.decode_worker = worker.worker_id
            self._table.add(record)

    def _ended(self, worker: WorkerStatus, session_id: SessionId) -> None:
        record = self._table.of(session_id)
        if record.prefill_worker:
            return  # It had a turn here, and what it left is still of use without a lease.
        record.decodes = tuple([one for one in record.decodes if one.worker_id != worker.worker_id])
        if not record.decodes:
            self._table.drop(session_id)


def with_report(known: tuple[Keeping, ...], reported: Keeping) -> tuple[Keeping, ...]:
    """What decode workers keep of a session, the most recent first, with one worker's report.

    A report that only repeats what a turn here left says less: a lease has one state. The longer of
    two workers' parts is the more recent one, since conversations grow.
    """
    here = [one for one in known if _place(one) == _place(reported)]
    if here and here[0].tokens == reported.tokens:
        return known
    others = tuple([one for one in known if one.worker_id != reported.worker_id])
    if others and others[0].tokens > reported.tokens:
        return (others[0], reported)
    return (reported, *others[:1])


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
    """Whether a prompt goes on where an answer ended, so it is no new conversation.

    Behind what many prompts start with, a decode worker keeps states in answers, and those of
    suffixes that it computed after one.
    """
    return any(
        held.checkpoint_tokens > opening_tokens and not nodes[worker_id].is_prefill
        for worker_id, held in reported.items()
    )


def merged(one: Residency, other: Residency) -> Residency:
    """What either knows that workers hold. The order is that of `one`, then of `other`."""
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


def _keeping(worker: WorkerStatus, session: KeptSession) -> Keeping:
    state_tokens = session.checkpoint_tokens
    return Keeping(
        worker_id=worker.worker_id,
        epoch=worker.epoch,
        tokens=session.tokens,
        states=(state_tokens,) if state_tokens else (),
    )


def _place(keeping: Keeping) -> tuple[WorkerId, Epoch]:
    return keeping.worker_id, keeping.epoch
