"""Fetches a prefix from the worker that holds it, and puts it into the cache."""

from __future__ import annotations

from kv_transfer.exchange import Exchange
from kv_transfer.ticket import PeerIdentity
from segue.api.prompt import Prompt
from segue.api.types import TurnId
from segue.cache.layout import CacheLayout
from segue.cache.memory import Memory
from segue.cache.prefix.cache import Hold


class PrefixFetcher:
    """The event loop owns it. A prefill worker pulls what a turn lacks with it, and a decode worker
    the sessions that it adopts."""

    def __init__(self, exchange: Exchange, memory: Memory, layout: CacheLayout) -> None:
        self._exchange = exchange
        self._memory = memory
        self._layout = layout

    def num_missing_pages(self, tokens: Prompt, hold: Hold) -> int:
        return len(tokens) // self._layout.page_tokens - len(hold.pages)

    async def fetch(self, owner: TurnId, source: PeerIdentity, tokens: Prompt, hold: Hold) -> int:
        """Fetches `tokens`, at whose end `source` has a state. `hold` is the part of them that is
        here, without their last page; afterwards it reaches to their end.

        The caller has made room: for the missing pages, and a slot. `owner` owns the units until
        they are cached. Returns the bytes that were moved. Raises what `Exchange.fetch` raises.
        """
        num_pages = self.num_missing_pages(tokens, hold)
        arrival = await self._exchange.fetch(
            owner,
            source,
            self._memory.cache.tree.name(hold.node, tokens),
            resident_tokens=hold.num_tokens,
        )
        try:
            left = self._memory.cache.insert(
                tokens, arrival.pages, hold=hold, checkpoints={len(tokens): arrival.slot}
            )
            assert not left, "a prefix that is fetched ends at a page boundary"
        except BaseException:
            # The owner has nothing else yet: all its working units were fetched for it.
            self._memory.reclaim(owner)
            raise
        return num_pages * self._layout.page_bytes + self._layout.slot_bytes
