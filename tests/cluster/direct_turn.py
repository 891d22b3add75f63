"""Turns sent directly to a decode worker's object, without router and gRPC."""

from __future__ import annotations

import asyncio

from decode_worker.turn import PromptSource, TurnNews
from decode_worker.worker import DecodeWorker
from segue.api.errors import SegueError
from segue.api.turn import ComputedOnDecode, TokenDelta, TurnResult, TurnSpec


class DirectTurn:
    """Collects the worker's events of one turn."""

    def __init__(self, worker: DecodeWorker, turn: TurnSpec) -> None:
        self._worker = worker
        self._turn = turn
        self._news: asyncio.Queue[TurnNews] = asyncio.Queue()

    async def start(self, source: PromptSource | None = None) -> None:
        """Returns when the worker has accepted the turn. Raises what the worker raises."""
        answering = self._worker.answer(
            self._turn, source or ComputedOnDecode(64), self._news.put_nowait, timeout_s=60.0
        )
        self._answering = asyncio.ensure_future(answering)
        reading = asyncio.ensure_future(self._news.get())
        await asyncio.wait({self._answering, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.cancel()
            await self._answering

    def stop(self) -> None:
        self._answering.cancel()

    async def answer(self) -> tuple[list[int], TurnResult]:
        """The turn's answer, from its start to its end."""
        tokens: list[int] = []
        while not isinstance(news := await self._news.get(), TurnResult):
            if isinstance(news, SegueError):
                raise news
            if isinstance(news, TokenDelta):
                tokens += news.token_ids
        return tokens, news
