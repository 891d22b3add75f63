"""The real engine over TCP: this process writes, another one reads."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from kv_transfer.config import TransferConfig
from kv_transfer.layout import MemoryMap
from kv_transfer.ticket import Ticket
from kv_transfer.transport.cache_memory import checksums_of
from kv_transfer.transport.mooncake import MooncakeTransport
from kv_transfer.transport.transport import registered
from kv_transfer.wire import layout_to_wire, memory_map_from_wire, ticket_from_wire
from kv_transfer.writing.outgoing import Outgoing, ShipLimits
from kv_transfer.writing.plan import Fragment, plan_units
from kv_transfer.writing.writer import HandoffWriter
from segue.api.errors import InvalidConfig, TransferFailed
from segue.api.types import Epoch, PageId, SlotId, WorkerId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.tensors import CacheTensors
from segue.internal.v1 import transfer_pb2 as pb
from tests.forked import Imported
from tests.kv_transfer.world import LAYOUT, NUM_LAYERS

CONFIG = TransferConfig(progress_timeout_s=1, transfer_timeout_s=5)
LARGE = CacheLayout(
    model_id="large",
    page_tokens=1,
    fields=(
        CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(1 << 18,)),
        CacheField(group="conv", layer=0, unit=Unit.SLOT, dtype="float32", shape=(4,)),
    ),
)
TINY = CacheLayout(
    model_id="tiny pages",
    page_tokens=1,
    fields=(CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(16,)),),
)


READER = "tests.kv_transfer.mooncake_reader"


@pytest.fixture(scope="module")
def readers() -> Iterator[Imported]:
    with contextlib.closing(Imported(READER)) as imported:
        yield imported


class ReaderProcess:
    """A process of `tests.kv_transfer.mooncake_reader`, which the test starts and kills."""

    def __init__(
        self, readers: Imported, layout: CacheLayout, num_pages: int, name: str = "decode-0"
    ) -> None:
        wire = base64.b64encode(layout_to_wire(layout).SerializeToString()).decode()
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        with open(os.devnull, "wb") as nothing:
            self._process = readers.start(
                f"{READER}:main",
                [name, wire, str(num_pages)],
                streams=(theirs_in, theirs_out, nothing.fileno()),
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._commands = os.fdopen(ours_in, "w", buffering=1)
        self._answers = os.fdopen(ours_out)
        encoded = self.ask("map")
        self.memory_map: MemoryMap = memory_map_from_wire(
            pb.MemoryMap.FromString(base64.b64decode(encoded))
        )

    def ask(self, command: str, **arguments: object) -> Any:
        self._commands.write(json.dumps({"command": command, **arguments}) + "\n")
        return json.loads(self._answers.readline())["ok"]

    def reserve(self, turn: str, num_tokens: int) -> Ticket:
        encoded = self.ask("reserve", turn=turn, num_tokens=num_tokens)
        return ticket_from_wire(pb.Ticket.FromString(base64.b64decode(encoded)))

    def send(self, signal_number: signal.Signals) -> None:
        self._process.send_signal(signal_number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._commands.close()
        self._answers.close()


class Writer:
    """This side: a cache, and a transport that signals when its first write has returned."""

    def __init__(self, layout: CacheLayout, num_pages: int) -> None:
        self.tensors = CacheTensors.allocate(layout, num_pages=num_pages, num_slots=2, device="cpu")
        self._mooncake = MooncakeTransport(CONFIG)
        self.wrote_first = threading.Event()
        self.memory_map = registered(
            self,
            self.tensors.fields(),
            worker_id=WorkerId("prefill-0"),
            epoch=Epoch(1),
            layout=layout,
        )
        self.handoffs = HandoffWriter(self, self.memory_map, ShipLimits(max_batch_bytes=1 << 20))

    @property
    def segment(self) -> str:
        return self._mooncake.segment

    def register(self, address: int, num_bytes: int) -> None:
        self._mooncake.register(address, num_bytes)

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        self._mooncake.write(target_segment, fragments)
        self.wrote_first.set()

    def close(self) -> None:
        self.handoffs.close()
        self._mooncake.close()

    def fill(self, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for _, tensor in self.tensors.fields():
            raw = tensor.view(torch.uint8)
            raw.copy_(value(raw))

    def digest(self, pages: Sequence[int], slot: int) -> str:
        digest = hashlib.sha256()
        for field, tensor in self.tensors.fields():
            units = list(pages) if field.unit is Unit.PAGE else [slot]
            digest.update(tensor[units].view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def start(self, ticket: Ticket, reader: ReaderProcess, pages: Sequence[int]) -> Outgoing:
        return self.handoffs.start(
            ticket,
            reader.memory_map,
            source_pages=[PageId(page) for page in pages],
            source_slot=SlotId(1),
        )


def random_bytes(raw: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, raw.shape, generator=generator, dtype=torch.uint8)


def ship(outgoing: Outgoing, num_pages: int, num_layers: int = 1) -> None:
    for layer in range(num_layers):
        outgoing.layer_ready(layer, pages=range(num_pages), with_slot=True)


@contextlib.contextmanager
def started(
    readers: Imported, layout: CacheLayout, num_pages: int
) -> Iterator[tuple[Writer, ReaderProcess]]:
    with (
        contextlib.closing(ReaderProcess(readers, layout, num_pages)) as reader,
        contextlib.closing(Writer(layout, num_pages)) as writer,
    ):
        yield writer, reader


async def test_another_process_holds_the_bytes_that_were_sent(readers: Imported) -> None:
    with started(readers, LAYOUT, 16) as (writer, reader):
        writer.fill(random_bytes)
        ticket = reader.reserve("turn-a", num_tokens=27)
        pages = [9, 2, 3, 4, 15, 0, 1]
        outgoing = writer.start(ticket, reader, pages)
        for start in (0, 3):
            for layer in range(NUM_LAYERS):
                outgoing.layer_ready(layer, pages=range(start, 7), with_slot=start == 3)

        result = await outgoing.finish()

        digest = reader.ask("commit", ticket_id=ticket.ticket_id, checksums=dict(result.checksums))
        assert digest == writer.digest(pages, slot=1)


async def test_a_reader_killed_during_a_handoff_fails_it_and_not_the_next(
    readers: Imported,
) -> None:
    with (
        started(readers, LARGE, 96) as (writer, victim),
        contextlib.closing(ReaderProcess(readers, LARGE, 8, "decode-1")) as other,
    ):
        writer.fill(random_bytes)
        outgoing = writer.start(victim.reserve("turn-a", num_tokens=96), victim, range(96))
        ship(outgoing, 96)
        assert writer.wrote_first.wait(10)
        victim.send(signal.SIGKILL)
        killed_at = time.monotonic()

        with pytest.raises(TransferFailed, match=f"to {victim.memory_map.segment}"):
            await outgoing.finish()
        assert time.monotonic() - killed_at < 5

        ticket = other.reserve("turn-b", num_tokens=5)
        again = writer.start(ticket, other, range(5))
        ship(again, 5)
        result = await again.finish()
        digest = other.ask("commit", ticket_id=ticket.ticket_id, checksums=dict(result.checksums))
        assert digest == writer.digest(range(5), slot=1)


def test_no_write_after_a_failure_reaches_a_reader_that_only_hung(readers: Imported) -> None:
    """The write fails while the reader is stopped; then its source is reused."""
    with started(readers, LARGE, 128) as (writer, reader):
        writer.fill(torch.zeros_like)
        fragments = [
            fragment
            for page in range(128)
            for fragment in plan_units(
                writer.memory_map.region(0), reader.memory_map.region(0), [(page, 127 - page)]
            )
        ]
        slot = plan_units(writer.memory_map.region(1), reader.memory_map.region(1), [(0, 0)])
        writer.write(reader.memory_map.segment, slot)
        reader.send(signal.SIGSTOP)

        with pytest.raises(TransferFailed):
            writer.write(reader.memory_map.segment, fragments)
        writer.fill(lambda raw: torch.full_like(raw, 7))
        reader.send(signal.SIGCONT)
        for _ in range(20):
            writer.write(reader.memory_map.segment, slot)

        slot_bytes = LARGE.fields[1].unit_bytes
        assert reader.ask("count", value=7) == slot_bytes


def test_more_fragments_than_mooncake_can_queue_arrive_in_batches(readers: Imported) -> None:
    with started(readers, TINY, 6000) as (writer, reader):
        writer.fill(random_bytes)
        ticket = reader.reserve("turn-a", num_tokens=6000)
        backwards = list(enumerate(reversed(ticket.page_ids)))
        fragments = plan_units(writer.memory_map.region(0), reader.memory_map.region(0), backwards)
        assert len(fragments) == 6000

        writer.write(reader.memory_map.segment, fragments)

        sums = checksums_of(writer.memory_map, range(5999, -1, -1), 0)
        digest = reader.ask("commit", ticket_id=ticket.ticket_id, checksums=sums)
        assert digest == writer.digest(range(5999, -1, -1), slot=0)


def test_an_unknown_peer_is_named_in_the_error() -> None:
    with contextlib.closing(Writer(TINY, 8)) as writer:
        address = writer.memory_map.region(0).address(0)

        with pytest.raises(TransferFailed) as failed:
            writer.write("127.0.0.1:1", [Fragment(address, 0x1000, 64)])

    assert "64 bytes in 1 fragments to 127.0.0.1:1 " in str(failed.value)


def test_memory_that_the_reader_did_not_register_stays_unchanged(readers: Imported) -> None:
    with started(readers, TINY, 8) as (writer, reader):
        address = writer.memory_map.region(0).address(0)
        past_the_end = reader.memory_map.region(0).base_address + 8 * 64
        with pytest.raises(TransferFailed, match="has not registered that memory"):
            writer.write(reader.memory_map.segment, [Fragment(address, past_the_end, 64)])

        good = Fragment(address, reader.memory_map.region(0).address(3), 64)
        writer.write(reader.memory_map.segment, [good])


def test_rdma_without_a_device_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidConfig, match="found no RDMA device"):
        MooncakeTransport(TransferConfig(protocol="rdma"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "udp"}, "protocol must be one of"),
        ({"transfer_timeout_s": 4}, "transfer_timeout_s must be >= 5, got 4"),
        ({"progress_timeout_s": 15}, r"below transfer_timeout_s \(15\), got 15"),
        ({"progress_timeout_s": 0}, "at least 1"),
    ],
)
def test_settings_that_let_a_failed_write_continue_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        TransferConfig(**change)
