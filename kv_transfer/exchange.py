"""All handoffs of one worker: it sends prompts, and fetches and lends prefixes.

Prefill writes to decode. Decode writes to prefill when prefill pulls a prefix. So every worker has
a writer, and a reader with its fencer. Each handoff is one block:

    async with exchange.send(ticket, pages=pages, slot=slot) as outgoing:
        ...  # compute; `outgoing.layer_ready(...)` for each layer

    with exchange.reader.reserve(...) as reservation:
        arrival = await reservation.arrived()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial, reduce

from kv_transfer.peers.members import Members
from kv_transfer.ranks.leading import RanksWriter, Sending, Writer
from kv_transfer.reading.fencer import Fencer
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.server import ReaderServicer, SourceServicer, WriterServicer
from kv_transfer.ticket import PeerIdentity, Ticket
from kv_transfer.transport.transport import Endpoint
from kv_transfer.writing.writer import HandoffWriter
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import NotFound, SegueError, TransferFailed
from segue.api.prompt import PrefixName, Prompt, page_digest
from segue.api.types import PageId, SlotId, TurnId
from segue.cache.memory import Memory
from segue.cache.prefix.cache import Hold
from segue.internal.v1.transfer_pb2_grpc import (
    add_HandoffReaderServicer_to_server,
    add_HandoffSourceServicer_to_server,
    add_HandoffWriterServicer_to_server,
)
from segue.process.cancellation import uninterrupted
from segue.process.tracing.tracer import Tracer
from segue.wire.server import Services
from segue.worker.process.serving import exit_on_failure

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
"""A call to a peer that takes longer fails. Calls that move or checksum bytes get more time."""
SLOWEST_BYTES_PER_S = 50e6
"""A peer that moves or checksums bytes more slowly counts as hung. A core needs 0.4 ms per MB."""

_FENCE_TIMEOUT_S = 5.0
_GREET_TIMEOUT_S = 2.0


class Exchange:
    """The event loop owns it. It runs until `close`."""

    def __init__(
        self,
        endpoint: Endpoint,
        memory: Memory,
        *,
        address: str,
        vocab_size: int,
        verify_checksums: bool,
        freed: Callable[[], None],
        clock: Callable[[], float],
        stepped: Callable[[str, str], None],
        load: Callable[[PrefixName], Awaitable[None]],
        tracer: Tracer,
    ) -> None:
        """`freed`, `stepped`: see `HandoffReader`. `load` loads back the offloaded parts of a
        prefix before it is lent.
        """
        memory_map = endpoint.memory_map
        self._layout = memory_map.layout
        self._memory, self._cache = memory, memory.cache
        self._peers = endpoint.peers
        self._load = load
        self._tracer, self._clock = tracer, clock
        self._vocab_size = vocab_size
        self.members = Members()
        own = HandoffWriter(
            endpoint.transport,
            memory_map,
            memory=endpoint.memory,
            verify_checksums=verify_checksums,
        )
        followers = endpoint.followers
        self.writer: Writer = RanksWriter(own, followers) if followers else own
        self.reader = HandoffReader(
            pools=memory,
            memory_map=memory_map,
            address=address,
            memory=endpoint.memory,
            verify_checksums=verify_checksums,
            followers=followers,
            require_writer=self.members.require_now,
            freed=freed,
            stepped=stepped,
            clock=clock,
        )
        fencer = Fencer(
            self.reader, lambda fence: self._peers.fence(fence, timeout_s=_FENCE_TIMEOUT_S)
        )
        self._fencing = asyncio.ensure_future(fencer.run())
        # Without the fencer no unit would leave quarantine, and nothing would report it.
        self._fencing.add_done_callback(exit_on_failure)

    @contextlib.asynccontextmanager
    async def send(
        self, ticket: Ticket, *, pages: Sequence[PageId], slot: SlotId
    ) -> AsyncIterator[Sending]:
        """Sends to the ticket's reader. The block computes and calls `Outgoing.layer_ready`.

        At its end everything is shipped and committed, together with `Outgoing.outcome`. If the
        block or the commit raises, the handoff is stopped and an abort goes to the reader. Either
        way no write is in flight afterwards. Until then the rules of `HandoffWriter.start` apply to
        pages and slot. Raises what `PeerCalls.meet` and `HandoffWriter.start` raise.
        """
        reader_map = await self._peers.meet(ticket, timeout_s=CALL_TIMEOUT_S)
        outgoing = self.writer.start(ticket, reader_map, source_pages=pages, source_slot=slot)
        try:
            yield outgoing
            shipped = await outgoing.finish()
            await self._peers.commit(
                ticket,
                shipped.checksums,
                outgoing.outcome,
                timeout_s=_timeout_s(shipped.shipped_bytes),
            )
        except BaseException as error:
            # Also on cancellation: pages must not be freed while a write is in flight.
            await uninterrupted(self._give_up(outgoing, ticket, error))
            raise

    async def fetch(self, owner: TurnId, source: PeerIdentity, tokens: Prompt, hold: Hold) -> int:
        """Makes `source` send `tokens`, at whose end it has a state, and caches them. `hold` is the
        part of them that is here, without their last page; afterwards it reaches to their end.

        The caller has made room: for the missing pages, and a slot. `owner` owns the units until
        they are cached. Returns the bytes that were moved. Raises what `HandoffReader.reserve` and
        `PeerCalls.pull` raise.
        """
        num_pages = (len(tokens) - hold.num_tokens) // self._layout.page_tokens
        num_bytes = self._layout.num_bytes(num_pages, 1)
        timeout_s = _timeout_s(num_bytes)
        prefix = self._cache.tree.name(hold.node, tokens)
        with self.reader.reserve(
            owner,
            num_prompt_tokens=len(tokens),
            extra_tokens=0,
            writer=source,
            lifetime_s=timeout_s,
            resident_tokens=hold.num_tokens,
        ) as reservation:
            await self._peers.pull(source, reservation.ticket, prefix, timeout_s=timeout_s)
            arrival = await reservation.arrived()
        try:
            left = self._cache.insert(
                tokens, arrival.pages, hold=hold, checkpoints={len(tokens): arrival.slot}
            )
            assert not left, "a prefix that is fetched ends at a page boundary"
        except BaseException:
            # The owner has nothing else yet: all its working units were fetched for it.
            self._memory.reclaim(owner)
            raise
        return num_bytes

    async def lend(self, ticket: Ticket, prefix: PrefixName) -> None:
        """Sends a prefix that is cached here: the holder's side of `fetch`.

        Raises NotFound if no state is kept at its end, and what `send` raises.
        """
        with self._tracer.span("lend", self._clock) as span:
            span.describe({"segue.prefix_tokens": prefix.num_tokens})
            await self._lend(ticket, prefix)

    async def _lend(self, ticket: Ticket, prefix: PrefixName) -> None:
        await self._load(prefix)
        match = self._cache.find(self._cache.tree.find(prefix) or Prompt())
        checkpoint = match.checkpoint
        if checkpoint is None or checkpoint.num_tokens != prefix.num_tokens:
            raise NotFound(
                f"no state is kept here after the first {prefix.num_tokens} tokens of that prompt; "
                "compute it"
            )
        hold = self._cache.hold_checkpoint(match)
        try:
            async with self.send(ticket, pages=hold.pages, slot=checkpoint.slot) as outgoing:
                # In a thread: queueing blocks while too many bytes wait.
                await asyncio.to_thread(outgoing.all_ready, len(hold.pages))
        finally:
            self._cache.release(hold)

    async def read(self, source: PeerIdentity, prefix: PrefixName) -> Prompt:
        """The tokens of a prefix that `source` holds. Raises NotFound, and TransferFailed if the
        reply is not that prefix."""
        keys = await self._peers.read_prefix(source, prefix, timeout_s=CALL_TIMEOUT_S)
        digest = reduce(page_digest, keys, b"")
        if digest != prefix.digest or len(keys) * self._layout.page_tokens != prefix.num_tokens:
            raise TransferFailed(
                f"{source.worker_id} was asked for a prefix of {prefix.num_tokens} tokens and sent "
                f"{len(keys)} other pages; compute it"
            )
        return Prompt.from_page_keys(keys, self._layout.page_tokens)

    async def read_keys(self, prefix: PrefixName) -> Sequence[bytes]:
        """The keys of a prefix's pages: the holder's side of `read`. Raises NotFound."""
        await self._load(prefix)
        tokens = self._cache.tree.find(prefix)
        if tokens is None:
            raise NotFound(f"no prefix of {prefix.num_tokens} tokens with that digest is here")
        page_tokens = self._layout.page_tokens
        return tokens.page_keys(page_tokens, len(tokens) // page_tokens)

    @property
    def is_sending(self) -> bool:
        """Whether a write from here is in flight or may start."""
        return self.writer.is_shipping

    @property
    def is_receiving(self) -> bool:
        """Whether another worker writes here, or may still do so."""
        return bool(self.reader.owners())

    def services(self) -> Services:
        """The services that other workers call."""
        reader = ReaderServicer(
            self.reader, vocab_size=self._vocab_size, require_life=self.members.require_life
        )
        writer = WriterServicer(self.writer)
        source = SourceServicer(self.lend, self.read_keys, self.members)
        return [
            (
                "segue.internal.v1.HandoffReader",
                partial(add_HandoffReaderServicer_to_server, reader),
            ),
            (
                "segue.internal.v1.HandoffWriter",
                partial(add_HandoffWriterServicer_to_server, writer),
            ),
            (
                "segue.internal.v1.HandoffSource",
                partial(add_HandoffSourceServicer_to_server, source),
            ),
        ]

    async def greet(self) -> None:
        """Meets the current members, so that the first handoff to each finds a connection and its
        memory map. One that does not answer is met when it is needed."""
        await asyncio.gather(*(self._greet(peer) for peer in self.members.alive()))

    async def _greet(self, peer: PeerIdentity) -> None:
        if peer.worker_id != self.reader.memory_map.worker_id:
            try:
                await self._peers.greet(peer, timeout_s=_GREET_TIMEOUT_S)
            except SegueError as error:
                logger.info("not met yet", extra={"peer": peer.worker_id, "error": str(error)})

    def members_changed(self, workers: Sequence[WorkerStatus]) -> None:
        """A writer that returns in a new epoch no longer writes in its old one. Connections to a
        reader that is gone are closed."""
        self.members.changed(workers)
        alive = {peer.worker_id: peer.epoch for peer in self.members.alive()}
        self.reader.members_changed(alive)
        self.writer.members_changed(alive)

    async def close(self) -> None:
        self._fencing.cancel()
        await asyncio.gather(self._fencing, return_exceptions=True)
        await asyncio.to_thread(self.writer.close)
        await self._peers.close()

    async def _give_up(self, outgoing: Sending, ticket: Ticket, error: BaseException) -> None:
        """Stops writing, then sends an abort to the reader."""
        reason = f"{type(error).__name__}: {error}"
        await outgoing.stop(reason)
        # If the abort is lost, the reader sends a fence, or is gone.
        with contextlib.suppress(SegueError):
            await self._peers.abort(ticket, reason, timeout_s=CALL_TIMEOUT_S)


def _timeout_s(num_bytes: int) -> float:
    """The timeout of a call in which the peer moves or checksums `num_bytes`."""
    return CALL_TIMEOUT_S + num_bytes / SLOWEST_BYTES_PER_S
