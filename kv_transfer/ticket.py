"""A reader's permission for a writer to write into its memory, and the values sent about it.

A handoff's bytes go to the pages that its ticket names, and the reader cannot check them: one page
number altered on the way would overwrite another session's pages, which gives wrong text without an
error. So the reader seals its tickets with a key for its current life, and sends the key to the
workers that meet it. A writer checks the seal before it writes. Workers do not authenticate yet, so
any process that can meet a reader can also seal tickets.
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
"""The maximum for a ticket. A turn may wait longer if its client does; its handoff may not."""

_MAX_SEAL_BYTES = 64

Checksums = Mapping[str, int]
"""By field group ("kv", "recurrent", "conv", "hidden"), for each pair of ranks that exchange bytes:
see `cache_memory`."""


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
    """The reader already holds the pages of these tokens. A multiple of the page size."""
    page_ids: tuple[PageId, ...]
    slot_id: SlotId
    expires_in_s: float
    """Counts from the reader's answer. Clocks are not compared across hosts."""
    seal: bytes = b""
    """An HMAC of all fields above except the reader's address and `expires_in_s`."""

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
    """A handoff whose bytes have all arrived. Its receiver owns pages and slot, now WORKING."""

    pages: tuple[PageId, ...]
    """The pages of the prompt after the resident ones, then those for the answer, in order."""
    slot: SlotId
    outcome: PrefillOutcome | None
    """Sent by the writer with the commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A ticket whose writer must confirm that it has stopped."""

    ticket_id: TicketId
    writer: PeerIdentity


def new_seal_key() -> bytes:
    return secrets.token_bytes(32)


def sealed(ticket: Ticket, key: bytes) -> Ticket:
    return replace(ticket, seal=_seal_of(ticket, key))


def require_seal(ticket: Ticket, key: bytes) -> None:
    """Raises InvalidRequest unless the ticket is as its reader issued it."""
    if not hmac.compare_digest(ticket.seal, _seal_of(ticket, key)):
        raise InvalidRequest(
            f"ticket {ticket.ticket_id} is not as {ticket.reader.worker_id} issued it: its seal "
            "does not match; reserve again"
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
