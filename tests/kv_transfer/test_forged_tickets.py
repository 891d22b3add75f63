"""Forged tickets that name missing memory, and fences for tickets that the sender never had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cachetools import FIFOCache

from kv_transfer.ticket import Ticket, TicketId
from kv_transfer.writing.writer import MAX_ENDED_TICKETS
from segue.api.errors import InvalidRequest, NotFound
from segue.api.types import PageId, SlotId
from tests.kv_transfer.pair import Pair


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"page_ids": (PageId(0), PageId(1), PageId(16))}, "page 16, but decode-0 has 16"),
        ({"slot_id": SlotId(3)}, "slot 3, but decode-0 has 3"),
        ({"resident_tokens": 3}, "starts after 3 tokens, which is not a page boundary"),
        ({"resident_tokens": 400}, "3 pages after the first 100, the prompt has 0"),
        ({"page_ids": (PageId(0),)}, "1 pages after the first 0, the prompt has 3"),
    ],
)
def test_a_ticket_for_missing_memory_is_refused_before_any_write(
    pair: Pair, change: dict[str, object], reason: str
) -> None:
    forged: Ticket = replace(pair.ticket, **change)  # type: ignore[arg-type]  # a test's values

    with pytest.raises(InvalidRequest, match=reason):
        pair.start(forged)

    assert pair.network.written == []
    pair.start()


async def test_no_number_of_unknown_fences_makes_a_used_ticket_usable(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in ("_ended", "_fenced"):
        monkeypatch.setattr(pair.writer, known, FIFOCache(20))
    outgoing = pair.start()
    await outgoing.stop("no longer wanted")

    for number in range(100):
        await pair.writer.fence(TicketId(f"decode-0-1-{number}"))

    assert MAX_ENDED_TICKETS > 20
    with pytest.raises(NotFound, match="was used or fenced"):
        pair.start()


async def test_fences_with_guessed_names_do_not_affect_later_tickets(pair: Pair) -> None:
    for number in range(1, 60):
        await pair.writer.fence(TicketId(f"decode-0-1-{number}"))

    ticket = pair.world.reserve(pair.reader, pair.source, num_tokens=10)
    outgoing = pair.start(ticket)

    assert outgoing.is_open
    await outgoing.stop("enough")
