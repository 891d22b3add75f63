"""What arrives of a request's turns, for the one task that answers the request."""

from __future__ import annotations

import asyncio

from segue.api.turn import PromptLogprobs, TurnEvent, TurnStarted


class Inbox:
    """Events of all answers in order of arrival. Those that wait are read together."""

    def __init__(self, num_answers: int, ping_s: float) -> None:
        self.has_tokens = [asyncio.Event() for _ in range(num_answers)]
        """Of each answer: set when it has tokens."""
        self.prompt_logprobs: dict[int, PromptLogprobs] = {}
        self._events: dict[int, list[TurnEvent]] = {}
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ping_s = ping_s
        self._read_at = self._loop.time()
        # One timer for all reads: an answer has thousands of them, and few pings.
        self._timer = self._loop.call_at(self._read_at + ping_s, self._ping)

    def put(self, index: int, event: TurnEvent) -> None:
        events = self._events.get(index)
        if events is None:
            self._events[index] = [event]
        else:
            events.append(event)
        self._wake()
        if isinstance(event, PromptLogprobs):
            self.prompt_logprobs[index] = event
        elif not isinstance(event, TurnStarted):
            self.has_tokens[index].set()

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def close(self) -> None:
        """Nothing will be read any more."""
        self._timer.cancel()

    async def read(self) -> list[tuple[int, list[TurnEvent]]]:
        """What waits; nothing if nothing comes for `ping_s`. Raises the error of an answer, after
        the events that preceded it.
        """
        self._read_at = self._loop.time()
        if not self._events and self._error is None:
            self._reader = self._loop.create_future()
            await self._reader
        if self._error is not None and not self._events:
            raise self._error
        events, self._events = self._events, {}
        return list(events.items())

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _ping(self) -> None:
        now = self._loop.time()
        is_late = now >= self._read_at + self._ping_s
        if is_late:
            self._wake()
        self._timer = self._loop.call_at(
            (now if is_late else self._read_at) + self._ping_s, self._ping
        )
