"""Two routers run the same turn of a session: one was cut off, or neither knows of the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kv_transfer.ticket import Ticket
from segue.api.types import SessionId
from tests.workers.fake_runner import answer_to
from tests.workers.two_workers import (
    NUM_ANSWERED,
    ShippedTurn,
    TwoWorkers,
    spec,
    until,
    wrongs,
)

PROMPT = tuple(range(40, 59))
SESSION = SessionId("s")


@pytest.fixture
async def workers() -> AsyncIterator[TwoWorkers]:
    with contextlib.ExitStack() as stack:
        workers = TwoWorkers(stack)
        yield workers
        await workers.close()


def attempt(workers: TwoWorkers, name: str) -> ShippedTurn:
    """One router's attempt at the turn: its name is that router's own."""
    return ShippedTurn(workers, replace(spec(f"turn/{name}", PROMPT), session_id=SESSION))


class Abandoned(ShippedTurn):
    """Its router fell silent once decode had reserved memory."""

    async def _prefill(self, ticket: Ticket) -> None:
        await asyncio.Event().wait()

    def end_stream(self) -> None:
        """The worker's ping was not answered."""
        self.at_decode.cancel()
        self.at_prefill.cancel()


async def test_a_turn_continues_beside_the_remains_of_its_first_attempt(
    workers: TwoWorkers,
) -> None:
    first = Abandoned(workers, attempt(workers, "first").turn)
    first.start()
    await until(lambda: bool(first.tickets))

    second = attempt(workers, "second")
    second.start()
    await until(lambda: second.result is not None)
    first.end_stream()
    await until(lambda: first.is_over() and second.is_over())

    assert second.tokens == answer_to(second.turn.context, NUM_ANSWERED)
    assert wrongs(workers) == []
    assert workers.decode._memory.cache.leases.sessions() == {SESSION}


async def test_two_attempts_at_the_same_time_give_the_same_answer(workers: TwoWorkers) -> None:
    both = [attempt(workers, name) for name in ("first", "second")]
    for one in both:
        one.start()
    await until(lambda: all(one.is_over() for one in both))

    right = answer_to(both[0].turn.context, NUM_ANSWERED)
    assert [one.tokens for one in both] == [right, right]
    assert [one.errors for one in both] == [[], []]
    assert wrongs(workers) == []
    assert workers.decode._memory.cache.leases.sessions() == {SESSION}
