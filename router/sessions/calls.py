"""What a client can do with its sessions between turns: list, renew, release, fork."""

from __future__ import annotations

import contextlib
import re

from router.membership.membership import Membership
from router.sessions.table import SessionTable
from router.turn.links import DecodeLink, Links
from segue.api.checks import require_name
from segue.api.cluster.status import SessionInfo, WorkerHealth
from segue.api.errors import InvalidRequest, NotFound
from segue.api.types import SessionId

_PAGE, _MAX_PAGE = 1_000, 10_000
_TOKEN = re.compile(r"[0-9]{1,19}")


class SessionDesk:
    """Changes the table's record and the decode worker's lease together."""

    def __init__(self, table: SessionTable, membership: Membership, links: Links) -> None:
        self._table = table
        self._membership = membership
        self._links = links

    def list(
        self, page_size: int, page_token: str, scope: str = ""
    ) -> tuple[list[SessionInfo], str]:
        """A page of the remembered sessions whose names start with `scope`, least recently used
        first, and the next page's token, which is empty after the last page. A `page_size` of 0
        means 1,000. Raises InvalidRequest.
        """
        after = _after(page_token)
        sessions, last_use = self._table.page(after, min(page_size, _MAX_PAGE) or _PAGE, scope)
        return sessions, "" if last_use is None else str(last_use)

    async def renew(
        self, session_id: SessionId, lease_s: float | None, pause_s: float | None
    ) -> float:
        """Returns the seconds until its lease expires. Raises NotFound, InvalidRequest."""
        return await self._decode_of(session_id).renew_lease(session_id, lease_s, pause_s)

    async def release(self, session_id: SessionId) -> bool:
        """Returns whether the session was known."""
        # If its worker is gone, the leased memory is gone too.
        with contextlib.suppress(NotFound):
            await self._decode_of(session_id).end_lease(session_id)
        return self._table.release(session_id)

    async def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Raises NotFound, and InvalidRequest for a child that exists."""
        require_name("the child's session_id", child_id)
        if child_id in self._table:
            raise InvalidRequest("a fork needs the name of a new session, got a known one")
        # The router may keep the messages even if no worker keeps pages.
        self._table.fork_history(parent_id, child_id)
        await self._decode_of(parent_id).fork_lease(parent_id, child_id)
        if parent_id not in self._table:
            raise NotFound("the parent was released meanwhile")
        self._table.fork(parent_id, child_id)

    def _decode_of(self, session_id: SessionId) -> DecodeLink:
        kept = self._table.of(session_id).kept
        for worker in self._membership.workers():
            is_here = kept and (worker.worker_id, worker.epoch) == (kept.worker_id, kept.epoch)
            if is_here and worker.health is not WorkerHealth.LOST:
                return self._links.decode(worker)
        raise NotFound("nothing is kept of this session: its next turn computes the whole prompt")


def _after(page_token: str) -> int:
    """Raises InvalidRequest for a malformed token."""
    if not page_token:
        return 0
    if _TOKEN.fullmatch(page_token) is None:
        raise InvalidRequest(
            f"page_token must be the next_page_token of a response, got {page_token!r:.80}: omit "
            "it for the first page"
        )
    return int(page_token)
