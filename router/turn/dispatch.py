"""One attempt at a turn: its calls to the workers that it was placed on."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias, TypeVar

from router.placement.estimate import Placement
from router.placement.placing import TurnPlacing
from router.turn.calls import NamedTurn, PromptSource, TurnCall, TurnReserved, WorkerCalls
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import SegueError, UnknownPrefix
from segue.api.turn import PrefillStarted, PromptLogprobs, TurnSpec

Reply = TypeVar("Reply")
Started: TypeAlias = tuple[Placement, TurnCall, TurnReserved | PrefillStarted]
"""Where the turn is, its call, and the call's first event."""


class Dispatch:
    """The decode worker drops everything it has of the turn once its call is closed."""

    def __init__(
        self,
        spec: TurnSpec,
        placing: TurnPlacing,
        workers: WorkerCalls,
        *,
        error: SegueError | None = None,
    ) -> None:
        """`spec` is what is left to do of the turn. `error` fails it before it starts."""
        # Unique to this attempt: a late message about an earlier attempt, or about an earlier turn
        # with the same turn_id, must not hit this one.
        self._name = f"{spec.turn_id}/{secrets.token_hex(4)}"
        self._spec = spec
        self._placing = placing
        self._workers = workers
        self._error = error
        self._call: TurnCall | None = None

    def fail(self, error: SegueError) -> None:
        """Makes whoever waits for the decode worker, now or later, raise `error`."""
        self._error = self._error or error
        if self._call is not None:
            self._call.fail(self._error)

    def close(self) -> None:
        if self._call is not None:
            self._call.close()

    async def start(self, placement: Placement, source: PromptSource, timeout_s: float) -> Started:
        """Makes decode reserve memory. Raises NotResident if it would have to compute too much."""

        async def start(turn: NamedTurn) -> Started:
            call = self._call = self._workers.start(
                placement.decode, turn, source, timeout_s=timeout_s
            )
            if self._error is not None:
                call.fail(self._error)
            started = await call.read()
            assert isinstance(started, TurnReserved | PrefillStarted), "a call's first event"
            return placement, call, started

        return await self._with_known_prefix(placement.decode, start)

    @contextlib.contextmanager
    def prefilling(
        self, call: TurnCall, placement: Placement, started: TurnReserved | PrefillStarted
    ) -> Iterator[None]:
        """Has a prefill worker compute the prompt, unless decode does. If that fails, so does the
        call to decode.
        """
        if isinstance(started, PrefillStarted):
            yield
            return
        prefill = asyncio.ensure_future(self._prefill(placement, started))
        prefill.add_done_callback(call.prefilled)
        try:
            yield
        finally:
            if call.has_result:
                # A short answer ended before prefill's reply that the prompt has arrived.
                self._workers.let_end(prefill)
            else:
                prefill.cancel()

    async def _prefill(self, placement: Placement, reserved: TurnReserved) -> PromptLogprobs | None:
        """Returns when decode has all of the prompt."""
        holder = self._placing.reserved(reserved.ticket.resident_tokens, reserved.checkpoint_tokens)

        async def prefill(turn: NamedTurn) -> PromptLogprobs | None:
            return await self._workers.prefill(placement.prefill, turn, reserved.ticket, holder)

        return await self._with_known_prefix(placement.prefill, prefill)

    async def _with_known_prefix(
        self, worker: WorkerStatus, send: Callable[[NamedTurn], Awaitable[Reply]]
    ) -> Reply:
        """Sends the worker only the tokens that it lacks; all of them if it has lost the prefix."""
        if (prefix := self._placing.known_prefix(worker)) is not None:
            with contextlib.suppress(UnknownPrefix):
                return await send(NamedTurn(self._name, self._spec, prefix))
        return await send(NamedTurn(self._name, self._spec, None))
