"""Who is in the cluster, by the router's last word: whom tickets may be for, and from.

Whoever may write into a worker's memory must be one of them, at the address that the cluster knows:
then there is somebody to ask when a ticket has to be taken back, and somebody whose death others
notice. A writer that nobody knows could keep its pages in quarantine for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kv_transfer.ticket import PeerIdentity
from segue.cluster_status import WorkerHealth, WorkerStatus
from segue.errors import Unavailable
from segue.types import WorkerId

NEWS_WAIT_S = 2.0
"""The router may name a worker to one that has not heard of it yet: the news is on its way."""


class Members:
    """One event loop owns it. Empty until the router has said something."""

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

    def alive(self) -> Sequence[PeerIdentity]:
        return list(self._alive.values())

    def knows(self, peer: PeerIdentity) -> bool:
        """That life of it, at that address."""
        return self._alive.get(peer.worker_id) == peer

    async def require(self, peer: PeerIdentity) -> None:
        """Waits for news of it if need be. Raises Unavailable when there are none."""
        if self.knows(peer):
            return
        try:
            async with asyncio.timeout(NEWS_WAIT_S):
                while not self.knows(peer):
                    await self._changed.wait()
        except TimeoutError:
            raise self._unknown(peer) from None

    def require_now(self, peer: PeerIdentity) -> None:
        """Raises Unavailable unless it is known."""
        if not self.knows(peer):
            raise self._unknown(peer)

    def _unknown(self, peer: PeerIdentity) -> Unavailable:
        known = self._alive.get(peer.worker_id)
        here = f"its members are {', '.join(sorted(self._alive)) or 'not known yet'}"
        if known is not None:
            here = f"it has {known.worker_id} in epoch {known.epoch} at {known.address}"
        return Unavailable(
            f"{peer.worker_id} in epoch {peer.epoch} at {peer.address} is not in the cluster: "
            f"{here}; place the turn anew"
        )
