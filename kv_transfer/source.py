"""Ships a prefix that is held here to a worker that asked for it: the same handoff, the other way.

asker: reserve ─ Pull(ticket, tokens) ─▶ source: hold, ship, commit ─▶ asker
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from kv_transfer.outgoing import Outgoing
from kv_transfer.peers import Peers
from kv_transfer.ticket import Ticket
from kv_transfer.writer import HandoffWriter
from segue.cache.layout import CacheLayout
from segue.cache.prefix_cache import Hold, PrefixCache
from segue.cancellation import uninterrupted
from segue.errors import NotFound, SegueError
from segue.prompt import Prompt
from segue.turn import ShipReport
from segue.types import SampledToken

PEER_TIMEOUT_S = 10.0

# A pulled prefix has no first token: nobody samples from it.
_NO_TOKEN = SampledToken(token_id=0)


class PrefixSource:
    """The event loop owns it, as it owns the cache."""

    def __init__(
        self, cache: PrefixCache, writer: HandoffWriter, peers: Peers, layout: CacheLayout
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._peers = peers
        self._layout = layout

    async def ship(self, ticket: Ticket, token_ids: Sequence[int]) -> int:
        """Writes the prefix's pages and state into `ticket` and commits it; returns the bytes.

        Raises NotFound when no state is kept after exactly these tokens, TransferFailed.
        """
        match = self._cache.find(Prompt(token_ids))
        if match.checkpoint is None or match.checkpoint.num_tokens != len(token_ids):
            raise NotFound(
                f"no state is kept here after these {len(token_ids)} tokens (any more); compute it"
            )
        hold = self._cache.hold_checkpoint(match)
        try:
            return await self._ship(ticket, hold)
        finally:
            self._cache.release(hold)

    async def _ship(self, ticket: Ticket, hold: Hold) -> int:
        assert hold.checkpoint is not None, "ship() has looked"
        reader_map = await self._peers.meet(ticket, timeout_s=PEER_TIMEOUT_S)
        outgoing = self._writer.begin(
            ticket, reader_map, source_pages=hold.pages, source_slot=hold.checkpoint.slot
        )
        try:
            # On a thread: queueing waits when much is under way already.
            await asyncio.to_thread(self._queue_all, outgoing, len(hold.pages))
            shipped = await outgoing.finish()
            report = ShipReport(shipped_bytes=shipped.shipped_bytes, transfer_s=shipped.transfer_s)
            await self._peers.commit(
                ticket, shipped.checksums, _NO_TOKEN, report, timeout_s=PEER_TIMEOUT_S
            )
        except BaseException as error:
            await uninterrupted(give_up(outgoing, ticket, self._peers, error))
            raise
        return shipped.shipped_bytes

    def _queue_all(self, outgoing: Outgoing, num_pages: int) -> None:
        layers = sorted({field.layer for field in self._layout.fields})
        for layer in layers:
            outgoing.layer_ready(layer, pages=range(num_pages), with_slot=True)


async def give_up(outgoing: Outgoing, ticket: Ticket, peers: Peers, error: BaseException) -> None:
    """Stops writing, then says so to the reader. Run it uninterrupted."""
    reason = f"{type(error).__name__}: {error}"
    await outgoing.stop(reason)
    # If it does not get through, the reader asks by itself (its fence), or is gone.
    with contextlib.suppress(SegueError):
        await peers.abort(ticket, reason, timeout_s=PEER_TIMEOUT_S)
