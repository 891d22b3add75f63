"""What a reader gives a writer to write into, and what the two say about it. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

from segue.checks import (
    MAX_NAME_CHARS,
    require,
    require_address,
    require_count,
    require_epoch,
    require_name,
    require_number,
)
from segue.types import Epoch, PageId, SlotId, TurnId, WorkerId

TicketId = NewType("TicketId", str)

MAX_LIFETIME_S = 3600.0
"""Of a ticket. A client that waits longer has a turn that waits longer; its handoff does not."""

_MAX_SEAL_BYTES = 64

Checksums = Mapping[str, int]
"""By field group ("kv", "recurrent", "conv", "hidden"); `kv_transfer.checksum` says over what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """One life of a worker, and where its gRPC server listens."""

    worker_id: WorkerId
    epoch: Epoch
    address: str

    def __post_init__(self) -> None:
        require_name("a worker's name", self.worker_id)
        require_epoch(f"the epoch of {self.worker_id}", self.epoch)
        require_address(f"the address of {self.worker_id}", self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Permission to write once into these pages and this slot of the reader.

    The pages are those of the prompt's tokens from `resident_tokens` on, in sequence order:
    `page_ids[i]` takes the sequence's page `num_resident_pages + i`.
    """

    ticket_id: TicketId
    turn_id: TurnId
    reader: PeerIdentity
    resident_tokens: int
    """The reader holds the pages of these tokens already; a multiple of the page size."""
    page_ids: tuple[PageId, ...]
    slot_id: SlotId
    expires_in_s: float
    """From the reader's answer on. Clocks are not compared across hosts."""
    seal: bytes = b""
    """Of all that is above but the address and the time (`kv_transfer/seal.py`)."""

    def __post_init__(self) -> None:
        require_name("ticket_id", self.ticket_id, max_chars=2 * MAX_NAME_CHARS)
        require_name("the ticket's turn_id", self.turn_id, max_chars=2 * MAX_NAME_CHARS)
        require_count("the ticket's resident_tokens", self.resident_tokens)
        require(min(self.page_ids, default=0) >= 0, "the ticket's page ids must be >= 0")
        require(
            len(set(self.page_ids)) == len(self.page_ids), "the ticket names a page more than once"
        )
        require_count("the ticket's slot_id", self.slot_id)
        require(len(self.seal) <= _MAX_SEAL_BYTES, "the ticket's seal is too long")
        require_number("the ticket's expires_in_s", self.expires_in_s, 0.0, MAX_LIFETIME_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedHandoff:
    """A prompt that is here: every byte of it has arrived. The receiver owns pages and slot.

    It gives them back from WORKING when the turn ends.
    """

    ticket_id: TicketId
    turn_id: TurnId
    num_prompt_tokens: int
    pages: tuple[PageId, ...]
    """The prompt's beyond the resident ones, then those for the answer, in sequence order."""
    slot: SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A ticket whose writer must say that it has stopped."""

    ticket_id: TicketId
    writer: PeerIdentity
