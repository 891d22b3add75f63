"""Both sides of all handoffs of one worker: what it writes, what is written to it, what it lends.

Prefill writes to decode, and decode to prefill when that fetches a prefix; so every worker has a
writer, a reader with its fencer, and a source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kv_transfer.fencer import Fencer
from kv_transfer.members import Members
from kv_transfer.peers import Peers
from kv_transfer.reader import HandoffReader, ReaderHooks
from kv_transfer.server import OnCommit, ReaderServicer, SourceServicer, WriterServicer
from kv_transfer.source import PrefixSource
from kv_transfer.transport import Endpoint
from kv_transfer.writer import HandoffWriter
from segue.cache.memory import Memory
from segue.cluster_status import WorkerStatus
from segue.internal.v1.transfer_pb2_grpc import (
    add_HandoffReaderServicer_to_server,
    add_HandoffSourceServicer_to_server,
    add_HandoffWriterServicer_to_server,
)
from segue.wire.server import Services
from segue.worker_process import exit_on_failure

_FENCE_TIMEOUT_S = 5.0


class Exchange:
    """The event loop owns it. It runs from its making until `close`."""

    def __init__(
        self,
        endpoint: Endpoint,
        memory: Memory,
        *,
        address: str,
        vocab_size: int,
        verify_checksums: bool,
        hooks: ReaderHooks,
        clock: Callable[[], float],
    ) -> None:
        memory_map = endpoint.memory_map
        self._vocab_size = vocab_size
        self.members = Members()
        self.writer = HandoffWriter(
            endpoint.transport,
            memory_map,
            memory=endpoint.memory,
            verify_checksums=verify_checksums,
        )
        self.peers = Peers(memory_map)
        self.reader = HandoffReader(
            pages=memory.pages,
            slots=memory.slots,
            memory_map=memory_map,
            address=address,
            memory=endpoint.memory,
            verify_checksums=verify_checksums,
            hooks=hooks,
            require_writer=self.members.require_now,
            clock=clock,
        )
        self._source = PrefixSource(memory.cache, self.writer, self.peers, memory_map.layout)
        fencer = Fencer(
            self.reader, lambda fence: self.peers.fence(fence, timeout_s=_FENCE_TIMEOUT_S)
        )
        self._fencing = asyncio.ensure_future(fencer.run())
        # Without it nothing would leave quarantine any more, and nobody would know why.
        self._fencing.add_done_callback(exit_on_failure)

    def services(self, on_commit: OnCommit) -> Services:
        """What other workers call."""
        reader = ReaderServicer(self.reader, on_commit, vocab_size=self._vocab_size)
        writer = WriterServicer(self.writer)
        source = SourceServicer(self._source, self.members)
        return [
            (
                "segue.internal.v1.HandoffReader",
                lambda server: add_HandoffReaderServicer_to_server(reader, server),
            ),
            (
                "segue.internal.v1.HandoffWriter",
                lambda server: add_HandoffWriterServicer_to_server(writer, server),
            ),
            (
                "segue.internal.v1.HandoffSource",
                lambda server: add_HandoffSourceServicer_to_server(source, server),
            ),
        ]

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        """A writer that came back in a later life has stopped writing in its earlier one."""
        self.members.changed(workers)
        self.reader.members_changed({peer.worker_id: peer.epoch for peer in self.members.alive()})

    async def close(self) -> None:
        self._fencing.cancel()
        await asyncio.gather(self._fencing, return_exceptions=True)
        await asyncio.to_thread(self.writer.close)
        await self.peers.close()
