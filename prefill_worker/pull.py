"""Pulls a prefix from the worker that holds it, if computing it is expected to take longer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from kv_transfer.exchange import Exchange
from kv_transfer.ticket import PeerIdentity
from segue.api.errors import SegueError
from segue.api.turn import PrefixHolder, ShipReport, TurnSpec
from segue.cache.layout import CacheLayout
from segue.cache.prefix.cache import PrefixCache
from segue.cost_line import Line, prior_line
from segue.process.telemetry import Clock

logger = logging.getLogger(__name__)

# Cost of a pull besides its transfer, until one is measured: calls, waiting for memory, checksums.
_CALLS_S = 0.01
# One stalled pull must not stop all later ones: a pull counts as at most this multiple of a
# handoff's cost, which is measured all the time.
_MAX_OVER_HANDOFF = 4.0


@dataclass(slots=True, kw_only=True)
class Rates:
    """Recent costs of computing and moving on this worker, in seconds."""

    compute: Line = field(default_factory=lambda: prior_line(0.02, 1e-3))
    """Cost of a prompt by its computed tokens. The prior is for a mid-sized model on a CPU. The
    fixed part is the same with and without a pull, so only the slope counts."""
    move: Line = field(default_factory=lambda: prior_line(0.002, 1e-9))
    """Cost of a handoff's transfer by its bytes. It shares the cores with computing."""
    pull: Line = field(default_factory=lambda: prior_line(_CALLS_S, 1e-9))
    """Cost of a pull by its bytes, from the decision until the prefix is in the cache."""

    def computed(self, num_tokens: int, seconds: float) -> None:
        self.compute = self.compute.observed(num_tokens, seconds)

    def moved(self, num_bytes: int, seconds: float) -> None:
        if num_bytes:
            self.move = self.move.observed(num_bytes, seconds)

    def pulled(self, num_bytes: int, seconds: float) -> None:
        self.pull = self.pull.observed(num_bytes, seconds)

    def pull_s(self, num_bytes: int) -> float:
        """The expected time of a pull. Until one is measured: the time of a handoff and some
        calls."""
        as_handoff_s = _CALLS_S + self.move.at(num_bytes)
        if not self.pull.num_observed:
            return as_handoff_s
        return min(self.pull.at(num_bytes), _MAX_OVER_HANDOFF * as_handoff_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEstimate:
    compute_s: float
    move_s: float

    @property
    def pays(self) -> bool:
        return self.move_s < self.compute_s


def estimate_pull(
    layout: CacheLayout,
    rates: Rates,
    *,
    held_tokens: int,
    matched_tokens: int,
    resume_tokens: int,
) -> PullEstimate:
    """The holder has a state after `held_tokens`. This worker has pages up to `matched_tokens`, and
    would compute from `resume_tokens` on.
    """
    num_pages = max(held_tokens - matched_tokens, 0) // layout.page_tokens
    return PullEstimate(
        compute_s=max(held_tokens - resume_tokens, 0) * rates.compute.per_unit,
        move_s=rates.pull_s(layout.num_bytes(num_pages, 1)),
    )


class Puller:
    """The event loop owns it. It puts fetched prefixes into the cache."""

    def __init__(
        self, exchange: Exchange, cache: PrefixCache, layout: CacheLayout, clock: Clock
    ) -> None:
        self.rates = Rates()
        self._exchange = exchange
        self._cache = cache
        self._layout = layout
        self._clock = clock

    async def pull(self, turn: TurnSpec, holder: PrefixHolder) -> ShipReport:
        """Pulls the holder's prefix into the cache if that is expected to pay. Reports the cost.

        A failed pull costs only its time: the prompt is computed instead.
        """
        cache = self._cache
        held_tokens = holder.checkpoint_tokens
        here = cache.find(turn.context, held_tokens)
        resume = here.checkpoint.num_tokens if here.checkpoint else 0
        # At least one page is pulled with the state: the page at whose end it is.
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
            tokens = turn.context[:held_tokens]
            cache.make_room((held_tokens - hold.num_tokens) // self._layout.page_tokens, 1)
            source = PeerIdentity(
                worker_id=holder.worker_id, epoch=holder.epoch, address=holder.address
            )
            num_bytes = await self._exchange.fetch(turn.turn_id, source, tokens, hold)
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
