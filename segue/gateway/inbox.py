"""Merges the events of a request's turns for the task that answers the request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable

from segue.api.turn import PromptLogprobs, TurnEvent, TurnStarted


class Inbox:
    """Events of several answers in order of arrival. One read returns all pending ones."""

    def __init__(self, num_answers: int) -> None:
        self.has_tokens = [asyncio.Event() for _ in range(num_answers)]
        """One for each answer, set when it has tokens."""
        self.prompt_logprobs: dict[int, PromptLogprobs] = {}
        self._num_left = num_answers
        self._events: dict[int, list[TurnEvent]] = {}
        self._error: Exception | None = None
        self._something = asyncio.Event()

    def put(self, index: int, event: TurnEvent) -> None:
        self._events.setdefault(index, []).append(event)
        self._something.set()
        if isinstance(event, PromptLogprobs):
            self.prompt_logprobs[index] = event
        elif not isinstance(event, TurnStarted):
            self.has_tokens[index].set()

    def ended(self) -> None:
        """One answer has put its last event."""
        self._num_left -= 1
        self._something.set()

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._something.set()

    async def read(self) -> list[tuple[int, list[TurnEvent]]]:
        """The pending events; empty once all answers have ended. Raises an answer's error after the
        events that preceded it.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if not self._num_left:
                break
            self._something.clear()
            await self._something.wait()
        events, self._events = self._events, {}
        return list(events.items())


@contextlib.asynccontextmanager
async def running_beside(works: Iterable[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Runs them as tasks and cancels them when the block ends. They must not raise. A TaskGroup
    would cancel the task that reads the generator, not the generator.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
