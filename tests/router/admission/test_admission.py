"""Who is let in, who waits and who is refused, on a real event loop."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.admission.admission import Admission, AdmissionRequest, capacity_of
from router.config import RouterConfig
from segue.api.cluster.status import WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.errors import (
    Cancelled,
    DeadlineExceeded,
    Overloaded,
    SegueError,
    Unavailable,
)
from tests.router.fake_workers import settle
from tests.router.small_cluster import worker


def admission(**settings: Any) -> Admission:
    return Admission(RouterConfig(**{"max_turns": 1, **settings}))


class Clients:
    """Turns that hold their place until the test ends them."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.let_in: list[str] = []
        self.errors: dict[str, SegueError] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def come(self, name: str, **asking: Any) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, asking))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settle()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def _run(self, name: str, asking: dict[str, Any]) -> None:
        try:
            await self.admission.enter(
                AdmissionRequest(**{"name": name, "size_bytes": 1, **asking})
            )
        except SegueError as error:
            self.errors[name] = error
            return
        try:
            self.let_in.append(name)
            await self._ends[name].wait()
        finally:
            self.admission.leave()


async def test_turns_wait_for_a_place_in_order() -> None:
    clients = Clients(admission())
    for name in "abc":
        await clients.come(name)
    assert (clients.let_in, len(clients.admission.waiting)) == (["a"], 2)

    await clients.end("a")
    assert clients.let_in == ["a", "b"]
    await clients.end("b")
    await clients.end("c")

    assert (clients.admission.num_turns, len(clients.admission.waiting)) == (0, 0)


async def test_a_turn_does_not_overtake_those_that_wait() -> None:
    clients = Clients(admission(max_turns=2))
    for name in "abc":
        await clients.come(name)
    clients.admission.set_capacity(1)
    await clients.end("a")

    # One turn runs, one may. Later there are two places, and c is first.
    clients.admission.set_capacity(2)
    await clients.come("d")

    assert clients.let_in == ["a", "b", "c"]


async def test_a_full_queue_refuses_with_a_hint() -> None:
    clients = Clients(admission(max_queued=1))
    for name in "abc":
        await clients.come(name)

    assert isinstance(clients.errors["c"], Overloaded)
    assert clients.errors["c"].retry_after_s > 0
    assert "1 turns are in flight and 1 wait" in str(clients.errors["c"])


async def test_without_a_queue_all_that_would_wait_are_refused() -> None:
    clients = Clients(admission(max_queued=0))
    await clients.come("a")
    await clients.come("b")

    assert isinstance(clients.errors["b"], Overloaded)


async def test_a_queue_full_of_bytes_refuses_a_long_request() -> None:
    clients = Clients(admission(max_queued_bytes=100))
    await clients.come("a", size_bytes=1_000)
    await clients.come("b", size_bytes=101)
    await clients.come("c", size_bytes=100)

    assert isinstance(clients.errors["b"], Overloaded)
    assert clients.admission.waiting.size_bytes == 100


async def test_who_waits_too_long_is_refused_with_a_hint() -> None:
    clients = Clients(admission(queue_timeout_s=0.01))
    await clients.come("a")
    await clients.come("b")
    await clients.tasks["b"]

    assert isinstance(clients.errors["b"], Overloaded)
    assert "queue_timeout_s" in str(clients.errors["b"])
    assert clients.errors["b"].retry_after_s > 0
    assert len(clients.admission.waiting) == 0


async def test_a_clients_own_deadline_counts_too() -> None:
    clients = Clients(admission(queue_timeout_s=60.0))
    await clients.come("a")
    await clients.come("b", deadline_s=0.01)
    await clients.tasks["b"]

    assert isinstance(clients.errors["b"], DeadlineExceeded)


async def test_a_client_that_hangs_up_leaves_the_queue_at_once() -> None:
    clients = Clients(admission())
    for name in "abc":
        await clients.come(name)

    await clients.leave("b")

    assert len(clients.admission.waiting) == 1
    await clients.end("a")
    assert clients.let_in == ["a", "c"]


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_client_that_hangs_up_as_it_is_let_in_keeps_no_place(is_first: bool) -> None:
    clients = Clients(admission())
    for name in "abc":
        await clients.come(name)

    # In one step of the event loop: b is let in, and its client leaves, in either order.
    if is_first:
        clients.tasks["b"].cancel()
    clients._ends["a"].set()
    clients.admission.set_capacity(2)
    clients.tasks["b"].cancel()
    await settle()

    assert clients.let_in == ["a", "c"]
    assert clients.admission.num_turns == 1
    await clients.end("c")
    assert (clients.admission.num_turns, len(clients.admission.waiting)) == (0, 0)


async def test_a_waiting_turn_can_be_cancelled_by_its_name() -> None:
    clients = Clients(admission())
    for name in "ab":
        await clients.come(name)

    assert clients.admission.cancel("b", Cancelled("by its id"))
    await settle()

    assert isinstance(clients.errors["b"], Cancelled)
    assert not clients.admission.cancel("b", Cancelled("again"))
    assert not clients.admission.cancel("a", Cancelled("it runs"))


async def test_draining_ends_the_wait_of_all_and_waits_for_those_inside() -> None:
    clients = Clients(admission())
    for name in "abc":
        await clients.come(name)

    draining = asyncio.create_task(clients.admission.drain(5.0))
    await settle()

    assert all(isinstance(clients.errors[name], Unavailable) for name in "bc")
    assert not draining.done()
    await clients.end("a")
    await draining
    await clients.come("d")
    assert isinstance(clients.errors["d"], Unavailable)


async def test_a_place_is_free_again_when_its_turn_fails() -> None:
    clients = Clients(admission())
    await clients.come("a")
    await clients.leave("a")

    assert clients.admission.num_turns == 0


def decode(name: str, max_turns: int, **changed: Any) -> WorkerStatus:
    return replace(worker(name, **changed), load=WorkerLoad(max_turns=max_turns))


@pytest.mark.parametrize(
    ("workers", "capacity"),
    [
        ([], None),
        ([worker("prefill-0")], None),
        # An older worker does not report it.
        ([decode("decode-0", 0)], None),
        ([decode("decode-0", 8), decode("decode-1", 0)], None),
        ([decode("decode-0", 8), decode("prefill-0", 99)], 10),
        ([decode("decode-0", 8), decode("decode-1", 8)], 20),
        ([decode("decode-0", 64), decode("decode-1", 64)], 160),
        ([decode("decode-0", 8), decode("decode-1", 8, health=WorkerHealth.LOST)], 10),
        ([decode("decode-0", 8, health=WorkerHealth.DRAINING)], None),
    ],
)
def test_there_are_as_many_places_as_turns_run_and_some_to_spare(
    workers: list[WorkerStatus], capacity: int | None
) -> None:
    assert capacity_of(workers) == capacity


async def test_the_workers_limit_the_places_within_the_configured_ones() -> None:
    clients = Clients(admission(max_turns=2))
    clients.admission.set_capacity(1)
    for name in "abc":
        await clients.come(name)
    assert clients.let_in == ["a"]

    clients.admission.set_capacity(100)
    await settle()

    assert clients.let_in == ["a", "b"]
