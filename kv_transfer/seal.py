"""A ticket's seal: the reader's word for what the ticket names.

The bytes of a handoff go where its ticket says, past the reader. One page number that was altered
on the way would overwrite another session's pages: wrong text, without an error. So the reader
seals its tickets with a key of its life, tells the key to those who meet it, and a writer looks at
the seal before it writes. Until workers prove who they are, whoever can meet a reader can seal too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import replace

from kv_transfer.ticket import Ticket
from segue.errors import InvalidRequest


def new_key() -> bytes:
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
