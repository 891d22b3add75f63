"""The other workers of the cluster.

A process that may write into a worker's memory must be a member, at the address that the cluster
knows. Then the reader can fence it when a ticket is withdrawn, and the cluster notices its death.
An unknown writer could keep pages in quarantine forever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from kv_transfer.ticket import PeerIdentity
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import Unavailable
from segue.api.types import Epoch, WorkerId

NEWS_WAIT_S = 2.0
"""The longest wait for a worker that the router has named but not yet announced as a member."""


class Members:
    """One event loop owns it. Empty until the router's first update."""

    def __init__(self) -> None:
        self._alive: dict[WorkerId, PeerIdentity] = {}
        self._changed = asyncio.Event()

    def changed(self, workers: Sequence[WorkerStatus]) -> None:
        self._alive = {
            worker.worker_id: PeerIdentity(
                worker_id=worker.worker_id, epoch=worker.epoch, address=worker.address
            )
            for worker in workers
            if worker.health is not WorkerHealth.LOST
        }
        self._changed.set()
        self._changed = asyncio.Event()

    async def known(self) -> None:
        """Returns once a router has sent the members."""
        while not self._alive:
            await self._changed.wait()

    def alive(self) -> Sequence[PeerIdentity]:
        return list(self._alive.values())

    def knows(self, peer: PeerIdentity) -> bool:
        """Whether this life of the peer, at this address, is a member."""
        return self._alive.get(peer.worker_id) == peer

    async def require(self, peer: PeerIdentity) -> None:
        """Waits until the peer is a member. Raises Unavailable after `NEWS_WAIT_S`."""
        if not await self._wait_until(lambda: self.knows(peer)):
            raise self._unknown(peer.worker_id, peer.epoch, peer.address)

    async def require_life(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Like `require`, for a worker that did not send its address."""

        def knows() -> bool:
            known = self._alive.get(worker_id)
            return known is not None and known.epoch == epoch

        if not await self._wait_until(knows):
            raise self._unknown(worker_id, epoch, "any address")

    async def _wait_until(self, is_so: Callable[[], bool]) -> bool:
        """Returns whether `is_so()` becomes true within `NEWS_WAIT_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEWS_WAIT_S):
                while not is_so():
                    await self._changed.wait()
        return is_so()

    def require_now(self, peer: PeerIdentity) -> None:
        """Raises Unavailable unless the peer is a member."""
        if not self.knows(peer):
            raise self._unknown(peer.worker_id, peer.epoch, peer.address)

    def _unknown(self, worker_id: WorkerId, epoch: Epoch, address: str) -> Unavailable:
        known = self._alive.get(worker_id)
        here = f"its members are {', '.join(sorted(self._alive)) or 'not known yet'}"
        if known is not None:
            here = f"it has {known.worker_id} in epoch {known.epoch} at {known.address}"
        return Unavailable(
            f"{worker_id} in epoch {epoch} at {address} is not in the cluster: "
            f"{here}; place the turn again"
        )
