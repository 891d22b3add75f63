"""The grammars of turns whose answers must have a given form. A separate process
(`segue/grammar/checking.py`) builds and compiles them before the turn is placed.

Compiling takes from milliseconds to minutes, and can only be stopped by ending its process.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from cachetools import LRUCache

from router.sessions.helper import Helper
from segue.api.errors import InvalidRequest, Overloaded
from segue.api.types import Grammar
from segue.grammar.build import GrammarSpec

MAX_JOB_S = 5.0
"""Large schemas take a second. Each worker then spends the same time once."""
_MAX_WAITING = 64
_CACHE_BYTES = 64 << 20


class GrammarDesk(Helper):
    """One event loop owns it."""

    def __init__(self, folder: Path, vocab_size: int, *, max_job_s: float = MAX_JOB_S) -> None:
        super().__init__(
            "segue.grammar.checking",
            [str(folder), str(vocab_size)],
            name="grammar-helper",
            purpose="compiles grammars",
            max_job_s=max_job_s,
            too_slow=(
                f"output: it could not be compiled within {max_job_s:g} s: simplify it, for "
                "example with fewer alternatives, and smaller limits of lengths and counts"
            ),
        )
        self._made: LRUCache[GrammarSpec, Grammar] = LRUCache(
            _CACHE_BYTES, getsizeof=lambda grammar: 2 * len(grammar.text)
        )
        self._making: dict[GrammarSpec, asyncio.Task[Grammar]] = {}

    async def make(self, spec: GrammarSpec) -> Grammar:
        """Raises InvalidRequest with the path of the part that cannot be served, Overloaded and
        Unavailable."""
        made = self._made.get(spec)
        if made is not None:
            return made
        making = self._making.get(spec)
        if making is None:
            if len(self._making) >= _MAX_WAITING:
                raise Overloaded(f"{_MAX_WAITING} grammars wait to be compiled: try again later")
            # Other turns may wait for the same grammar, so cancelling this one does not stop it.
            making = self._making[spec] = asyncio.create_task(self.do(spec))
            making.add_done_callback(lambda task: self._done(spec, task))
        try:
            return await asyncio.shield(making)
        except InvalidRequest as error:
            # Each turn raises an error of its own.
            own = InvalidRequest(str(error))
            own.field = error.field or "output"
            raise own from None

    def _done(self, spec: GrammarSpec, task: asyncio.Task[Grammar]) -> None:
        del self._making[spec]
        if not task.cancelled() and task.exception() is None:
            # A grammar that exceeds the cache is not cached.
            with contextlib.suppress(ValueError):
                self._made[spec] = task.result()
