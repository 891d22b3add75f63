"""Sessions' leases in both tiers, and pauses of sessions.

A session has a lease on the device and, once its pages are copied, on the host as well. While it is
paused it has a lease on the host only. This copies nothing, but its device memory is the first to
be evicted when others need room, and is loaded back shortly before the pause ends.

    grant ─▶ leased on both ─ pause ─▶ on the host only ─ nearly over, or a turn ─▶ on both
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass

from segue.api.types import SessionId
from segue.cache.host.copying import all_pages
from segue.cache.host.tier import HostTier
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.leases import Lease, Leases, no_lease
from segue.cache.prefix.node import PageNode
from segue.process.telemetry import Clock

_MARGIN_S = 0.5
"""A paused session is loaded back this long before its pause ends."""


@dataclass(slots=True, eq=False)
class _Copy:
    """A copy of a session's prefix to the host, which gets a lease there when it is complete."""

    node: PageNode
    expires_at: float
    then: Callable[[], None]


class TieredLeases:
    """The event loop owns it."""

    def __init__(self, device: PrefixCache, tier: HostTier, clock: Clock) -> None:
        self._device = device
        self._tier = tier
        self._clock = clock
        self._both = (device.leases, tier.cache.leases)
        self._copies: dict[SessionId, _Copy] = {}
        self._returns: dict[SessionId, asyncio.TimerHandle | asyncio.Task[None]] = {}

    def grant(self, session_id: SessionId, node: PageNode, lease_s: float) -> None:
        """Called after a turn. Replaces the session's leases and ends its pause."""
        self._stop_returning(session_id)
        expires_at = self._clock() + lease_s
        self._device.leases.grant(session_id, node, expires_at)
        self._copy_down(session_id, _Copy(node, expires_at, lambda: None))

    def renew(self, session_id: SessionId, lease_s: float) -> Lease:
        """Returns the device's lease if there is one, else the host's. Raises NotFound if there is
        neither.
        """
        expires_at = self._clock() + lease_s
        leased = self._leased(session_id)
        for leases, _ in leased:
            leases.renew(session_id, expires_at)
        if copy := self._copies.get(session_id):
            copy.expires_at = expires_at
        return leased[0][1]

    def left_s(self, session_id: SessionId) -> float:
        """Until the session's lease expires; 0 if it has none."""
        leased = [lease for leases in self._both if (lease := leases.get(session_id))]
        return max((lease.expires_at - self._clock() for lease in leased), default=0.0)

    def pause(self, session_id: SessionId, pause_s: float, lease_s: float) -> None:
        """The lease starts when the pause ends. Raises NotFound as `renew` does."""
        # Renew first, even for a short pause: it may end before the next call.
        lease = self.renew(session_id, pause_s + lease_s)
        self._stop_returning(session_id)
        away_s = pause_s - _MARGIN_S - self._tier.prefix_load_s(lease.num_tokens)
        if self._device.leases.get(session_id) is None:
            self._return_in(session_id, away_s)
        elif away_s > 0:
            back_at = self._clock() + away_s
            step_aside = functools.partial(self._step_aside, session_id, lease.node, back_at)
            self._copy_down(session_id, _Copy(lease.node, lease.expires_at, step_aside))

    def fork(self, session_id: SessionId, child_id: SessionId) -> None:
        """Gives the child a lease on all that the parent has. Raises NotFound as `renew` does."""
        for leases, _ in self._leased(session_id):
            leases.fork(session_id, child_id)

    def end(self, session_id: SessionId) -> bool:
        """Turns the leased memory into ordinary cache. Returns whether there was a lease."""
        self._stop_returning(session_id)
        self._copies.pop(session_id, None)
        return sum(leases.end(session_id) for leases in self._both) > 0

    def most_recent_first(self) -> list[Lease]:
        """A lease of each session: the device's, or else the host's."""
        on_device, on_host = (reversed(leases.all()) for leases in self._both)
        leased = {lease.session_id: lease for lease in on_device}
        for lease in on_host:
            leased.setdefault(lease.session_id, lease)
        return list(leased.values())

    def close(self) -> None:
        """Paused sessions are no longer loaded back."""
        for session_id in list(self._returns):
            self._stop_returning(session_id)
        self._copies.clear()

    def _leased(self, session_id: SessionId) -> list[tuple[Leases, Lease]]:
        """The session's leases, the device's first. Raises NotFound if there is none."""
        leased = [(leases, lease) for leases in self._both if (lease := leases.get(session_id))]
        if not leased:
            raise no_lease(session_id)
        return leased

    def _copy_down(self, session_id: SessionId, copy: _Copy) -> None:
        self._copies[session_id] = copy
        offloading = self._tier.offload(copy.node)
        offloading.add_done_callback(functools.partial(self._copied, session_id, copy))

    def _copied(
        self, session_id: SessionId, copy: _Copy, done: asyncio.Task[PageNode | None]
    ) -> None:
        if self._copies.get(session_id) is not copy:
            return  # The session has ended or had another turn.
        del self._copies[session_id]
        last = None if done.cancelled() or done.exception() else done.result()
        if last is not None and last.parent is not None:
            self._tier.cache.leases.grant(session_id, last, copy.expires_at)
            copy.then()

    def _step_aside(self, session_id: SessionId, node: PageNode, back_at: float) -> None:
        """Makes the device's copy the first to evict, if the host has all of it."""
        on_host = self._tier.cache.leases.get(session_id)
        if on_host is None or on_host.num_tokens < node.num_tokens:
            return
        self._device.leases.end(session_id)
        self._device.pins.demote(node)
        self._return_in(session_id, back_at - self._clock())

    def _return_in(self, session_id: SessionId, seconds: float) -> None:
        def come_back() -> None:
            self._returns[session_id] = asyncio.ensure_future(self._come_back(session_id))

        loop = asyncio.get_running_loop()
        self._returns[session_id] = loop.call_later(max(seconds, 0.0), come_back)

    async def _come_back(self, session_id: SessionId) -> None:
        """Loads the session back, as far as this needs no leased memory."""
        try:
            if lease := self._tier.cache.leases.get(session_id):
                prefix = self._tier.cache.tree.prompt(lease.node)
                await self._tier.load(prefix, all_pages, PrefixCache.make_spare_room)
                node = self._device.find(prefix).node
                if node.parent is not None:
                    self._device.leases.grant(session_id, node, lease.expires_at)
        finally:
            if self._returns.get(session_id) is asyncio.current_task():
                del self._returns[session_id]

    def _stop_returning(self, session_id: SessionId) -> None:
        """Cancels the session's return: a turn came first, or the session has ended."""
        if returning := self._returns.pop(session_id, None):
            returning.cancel()
