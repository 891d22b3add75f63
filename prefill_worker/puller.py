"""Fetches prefixes from the workers that hold them: the reverse handoff, as its asker sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kv_transfer.exchange import Exchange
from kv_transfer.source import PEER_TIMEOUT_S
from kv_transfer.ticket import CommittedHandoff, PeerIdentity
from prefill_worker.pull import Rates, estimate_pull
from segue.cache.accountant import UnitState
from segue.cache.layout import CacheLayout
from segue.cache.memory import Memory
from segue.cache.prefix_cache import Hold
from segue.errors import SegueError, TransferFailed
from segue.telemetry import Clock
from segue.turn import PrefixHolder, ShipReport, TurnSpec
from segue.types import SampledToken, TurnId

logger = logging.getLogger(__name__)


class Puller:
    """The event loop owns it. What it fetches it puts into the cache."""

    def __init__(
        self,
        exchange: Exchange,
        memory: Memory,
        layout: CacheLayout,
        freed: Callable[[], None],
        clock: Clock,
    ) -> None:
        """`freed` is told when memory became free: whoever waits for room may try again."""
        self.rates = Rates()
        self._exchange = exchange
        self._memory = memory
        self._layout = layout
        self._freed = freed
        self._clock = clock
        self._expected: dict[TurnId, asyncio.Future[CommittedHandoff]] = {}

    async def pull(self, turn: TurnSpec, holder: PrefixHolder) -> ShipReport:
        """Brings the holder's prefix into the cache if that is expected to pay; says what it cost.

        A pull that fails costs its time and nothing else: the prompt is computed instead.
        """
        cache = self._memory.cache
        held_tokens = holder.checkpoint_tokens
        here = cache.find(turn.context, held_tokens)
        resume = here.checkpoint.num_tokens if here.checkpoint else 0
        # At least one page comes along with the state: the one that the state belongs to.
        match = cache.find(turn.context, held_tokens - 1)
        estimate = estimate_pull(
            self._layout,
            self.rates,
            held_tokens=held_tokens,
            matched_tokens=match.num_tokens,
            resume_tokens=resume,
        )
        if held_tokens >= len(turn.context) or resume >= held_tokens or not estimate.pays:
            return ShipReport()
        hold = cache.hold_pages(match)
        started_at = self._clock()
        try:
            num_bytes = await self._fetch(turn, holder, hold)
        except SegueError as error:
            logger.info("prefix not pulled", extra={"error": str(error)})
            return ShipReport()
        finally:
            cache.release(hold)
        seconds = self._clock() - started_at
        self.rates.pulled(num_bytes, seconds)
        return ShipReport(
            pulled_tokens=held_tokens - resume, pulled_bytes=num_bytes, pull_s=seconds
        )

    async def _fetch(self, turn: TurnSpec, holder: PrefixHolder, hold: Hold) -> int:
        held_tokens = holder.checkpoint_tokens
        num_pages = held_tokens // self._layout.page_tokens - len(hold.pages)
        self._memory.cache.make_room(num_pages, 1)
        source = PeerIdentity(
            worker_id=holder.worker_id, epoch=holder.epoch, address=holder.address
        )
        ticket = self._exchange.reader.reserve(
            turn.turn_id,
            num_prompt_tokens=held_tokens,
            extra_tokens=0,
            writer=source,
            lifetime_s=PEER_TIMEOUT_S,
            resident_tokens=hold.num_tokens,
        )
        arrived: asyncio.Future[CommittedHandoff] = asyncio.get_running_loop().create_future()
        self._expected[turn.turn_id] = arrived
        try:
            num_bytes = await self._exchange.peers.pull(
                source, ticket, turn.context.tokens[:held_tokens], timeout_s=PEER_TIMEOUT_S
            )
        except BaseException:
            # What arrived all the same is nobody's now.
            if arrived.done() and not arrived.exception():
                self._give_back(arrived.result())
            raise
        finally:
            del self._expected[turn.turn_id]
            # Nothing, when it arrived; else the ticket is quarantined until the source has stopped.
            self._exchange.reader.give_up(turn.turn_id, "the pull failed")
        try:
            self._insert(turn, arrived.result(), hold)
        except BaseException:
            # Until its own memory is taken, a turn has nothing but what was pulled for it.
            self._memory.reclaim(turn.turn_id)
            raise
        return num_bytes

    def on_commit(
        self, committed: CommittedHandoff, first_token: SampledToken, report: ShipReport
    ) -> None:
        """`OnCommit` of this worker's reader."""
        arrived = self._expected.get(committed.turn_id)
        if arrived is None or arrived.done():
            self._give_back(committed)
            return
        arrived.set_result(committed)

    def _give_back(self, committed: CommittedHandoff) -> None:
        self._memory.pages.give_back(committed.pages, UnitState.WORKING)
        self._memory.slots.give_back([committed.slot], UnitState.WORKING)
        self._freed()

    def lost(self, turn_id: TurnId, reason: str) -> None:
        """`ReaderHooks.lost`: the handoff ended without a commit."""
        arrived = self._expected.get(turn_id)
        if arrived is not None and not arrived.done():
            arrived.set_exception(TransferFailed(f"the prefix did not arrive: {reason}"))
            # Whoever waits for the call hears of it there.
            arrived.exception()

    def _insert(self, turn: TurnSpec, committed: CommittedHandoff, hold: Hold) -> None:
        tokens = turn.context[: committed.num_prompt_tokens]
        left = self._memory.cache.insert(
            tokens, committed.pages, hold=hold, checkpoints={len(tokens): committed.slot}
        )
        assert not left, "a prefix that is pulled ends at a page boundary"
