"""One attempt at a turn: its calls to the workers that it was placed on."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from router.config import RouterConfig
from router.placement.estimate import Decision, Placement
from router.placement.placing import TurnPlacing
from router.turn.calls import NamedTurn, PromptSource, TurnCall, TurnReserved, WorkerCalls
from segue.answers import AUTO, ParserNames
from segue.api.cluster.status import WorkerStatus
from segue.api.errors import SegueError, UnknownPrefix
from segue.api.turn import PrefillStarted, PromptLogprobs, TurnSpec
from segue.api.types import SessionId
from segue.process.telemetry import Clock
from segue.text.tokens.detokenizer import TokenBytes

Reply = TypeVar("Reply")
Started: TypeAlias = tuple[Placement, TurnCall, TurnReserved | PrefillStarted]
"""The turn's workers, its call, and the call's first event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContext:
    """Everything that a turn uses of the router."""

    config: RouterConfig
    placing: TurnPlacing
    workers: WorkerCalls
    clock: Clock
    pause_s: Callable[[], float]
    """The current shortest time between two messages to one client."""
    tried_again: Callable[[SegueError, int], None]
    """Called with each error after which the turn is retried, and the number of tokens sent."""
    session_id: SessionId
    """This and `starts_in_reasoning` as in `TurnStarted`."""
    placed: Callable[[float, Decision], None] = lambda since, decision: None
    """Called with the start time of each decision, and the decision."""
    tokenizer: TokenBytes | None = None
    starts_in_reasoning: bool = False
    parsers: ParserNames = AUTO
    """How to read the answer."""


class Dispatch:
    """Once its call is closed, the decode worker drops everything that it holds for the turn."""

    def __init__(
        self, spec: TurnSpec, context: TurnContext, *, error: SegueError | None = None
    ) -> None:
        """`spec`: the rest of the turn. `error` fails the attempt before it starts."""
        # Unique to this attempt: a late message about an earlier attempt, or about an earlier turn
        # with the same turn_id, must not hit this one.
        self._name = f"{spec.turn_id}/{secrets.token_hex(4)}"
        self._spec = spec
        self._placing = context.placing
        self._workers = context.workers
        self._error = error
        self._call: TurnCall | None = None

    def fail(self, error: SegueError) -> None:
        """Makes the call to the decode worker raise `error`, now or once it starts."""
        self._error = self._error or error
        if self._call is not None:
            self._call.fail(self._error)

    def close(self) -> None:
        if self._call is not None:
            self._call.close()

    async def start(self, placement: Placement, source: PromptSource, timeout_s: float) -> Started:
        """Makes the decode worker reserve memory. Raises NotResident if it would have to compute
        too much."""

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
        """Lets a prefill worker compute the prompt, unless the decode worker does. If that fails,
        the call to the decode worker fails too.
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
                # A short answer ended before prefill confirmed that the prompt has arrived.
                self._workers.let_end(prefill)
            else:
                prefill.cancel()

    async def _prefill(self, placement: Placement, reserved: TurnReserved) -> PromptLogprobs | None:
        """Returns once the decode worker has the whole prompt."""
        holder = self._placing.reserved(reserved.ticket.resident_tokens, reserved.checkpoint_tokens)

        async def prefill(turn: NamedTurn) -> PromptLogprobs | None:
            return await self._workers.prefill(placement.prefill, turn, reserved.ticket, holder)

        return await self._with_known_prefix(placement.prefill, prefill)

    async def _with_known_prefix(
        self, worker: WorkerStatus, send: Callable[[NamedTurn], Awaitable[Reply]]
    ) -> Reply:
        """Sends only the tokens that the worker lacks, or all if it no longer has the prefix."""
        if (prefix := self._placing.known_prefix(worker)) is not None:
            with contextlib.suppress(UnknownPrefix):
                return await send(NamedTurn(self._name, self._spec, prefix))
        return await send(NamedTurn(self._name, self._spec, None))
