"""What a reader gives a writer to write into, and what the two say about it. Plain values.

A ticket is sealed by its reader. The bytes of a handoff go where its ticket says, past the reader:
one page number that was altered on the way would overwrite another session's pages, which is wrong
text without an error. So the reader seals its tickets with a key of its life and sends the key to
the workers that meet it, and a writer checks the seal before it writes. Workers do not prove who
they are yet, so any process that can meet a reader can seal too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NewType

from segue.api.checks import (
    MAX_NAME_CHARS,
    require,
    require_address,
    require_count,
    require_epoch,
    require_name,
    require_number,
)
from segue.api.errors import InvalidRequest
from segue.api.turn import PrefillOutcome
from segue.api.types import Epoch, PageId, SlotId, TurnId, WorkerId

TicketId = NewType("TicketId", str)

MAX_LIFETIME_S = 3600.0
"""Of a ticket. A client that waits longer has a turn that waits longer; its handoff does not."""

_MAX_SEAL_BYTES = 64

Checksums = Mapping[str, int]
"""By field group ("kv", "recurrent", "conv", "hidden"), as `CacheMemory` sums them."""


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
    """Over all fields above but the reader's address and the time."""

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
class Arrival:
    """A handoff whose bytes are all here. Its receiver owns pages and slot, which are WORKING."""

    pages: tuple[PageId, ...]
    """The pages of the prompt beyond the resident ones, then those for the answer, in order."""
    slot: SlotId
    outcome: PrefillOutcome | None
    """What the writer sent with the commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A ticket whose writer must say that it has stopped."""

    ticket_id: TicketId
    writer: PeerIdentity


def new_seal_key() -> bytes:
    return secrets.token_bytes(32)


def sealed(ticket: Ticket, key: bytes) -> Ticket:
    return replace(ticket, seal=_seal_of(ticket, key))


def require_seal(ticket: Ticket, key: bytes) -> None:
    """Raises InvalidRequest for a ticket that its reader did not issue as it is."""
    if not hmac.compare_digest(ticket.seal, _seal_of(ticket, key)):
        raise InvalidRequest(
            f"ticket {ticket.ticket_id} is not as {ticket.reader.worker_id} issued it: its seal "
            "does not fit; reserve again"
        )


def _seal_of(ticket: Ticket, key: bytes) -> bytes:
    reader = ticket.reader
    named = (
        ticket.ticket_id,
        ticket.turn_id,
        reader.worker_id,
        reader.epoch,
        ticket.resident_tokens,
        ticket.page_ids,
        ticket.slot_id,
    )
    return hmac.new(key, repr(named).encode(), hashlib.sha256).digest()
