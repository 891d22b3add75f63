"""Expires tickets, and asks the writers of quarantined tickets to stop.

Time never ends a quarantine: only the writer's answer or death does (see `handoff`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator

from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import Fence, TicketId
from segue.api.errors import SegueError

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.1
MAX_RETRY_S = 5.0

AskToStop = Callable[[Fence], Awaitable[bool]]
"""Returns True when the writer has stopped, False if its process is gone: nothing listens at its
address. Raises SegueError. `Peers.fence` with a timeout."""


class Fencer:
    """Runs as one task beside the reader, on the same event loop."""

    def __init__(
        self,
        reader: HandoffReader,
        ask_to_stop: AskToStop,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reader = reader
        self._ask_to_stop = ask_to_stop
        self._sleep = sleep
        self._asking: set[TicketId] = set()

    async def run(self) -> None:
        """Runs until cancelled. Sleeps until a ticket expires or needs a fence."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._reader.expire_due()
                for fence in self._reader.fence_pending():
                    if fence.ticket_id not in self._asking:
                        self._asking.add(fence.ticket_id)
                        tasks.create_task(self._ask_until_answered(fence))
                await self._reader.something_due()

    async def _ask_until_answered(self, fence: Fence) -> None:
        try:
            for delay_s in _delays():
                if not self._reader.is_quarantined(fence.ticket_id):
                    return
                if await self._is_answered(fence):
                    return
                await self._sleep(delay_s)
        finally:
            self._asking.discard(fence.ticket_id)

    async def _is_answered(self, fence: Fence) -> bool:
        try:
            has_stopped = await self._ask_to_stop(fence)
        except SegueError as error:
            # A connection that breaks or is never made proves nothing: the writer may be alive, and
            # its write may still be in flight.
            logger.info(
                "fence not answered",
                extra={"ticket_id": fence.ticket_id, "error": str(error)},
            )
            return False
        except Exception:
            # A bug. It proves nothing about the writer, and other tickets' fences must continue.
            logger.exception("sending a fence failed")
            return False
        if has_stopped:
            self._reader.fenced(fence.ticket_id)
        else:
            self._reader.writer_unreachable(fence.ticket_id)
        return has_stopped


def _delays() -> Iterator[float]:
    return (min(FIRST_RETRY_S * 2**attempt, MAX_RETRY_S) for attempt in itertools.count())
