"""What a turn needs from the router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.placement.estimate import Decision
from router.placement.placing import TurnPlacing
from router.turn.calls import WorkerCalls
from segue.answers import AUTO, ParserNames
from segue.api.errors import SegueError
from segue.api.types import SessionId
from segue.process.telemetry import Clock
from segue.text.tokens.detokenizer import TokenBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnContext:
    placing: TurnPlacing
    workers: WorkerCalls
    clock: Clock
    max_attempts: int
    pause_s: Callable[[], float]
    """The current shortest time between two messages to one client."""
    tried_again: Callable[[SegueError, int], None]
    """Called with each error after which the turn is retried, and the number of tokens sent."""
    session_id: SessionId
    """This and `starts_in_reasoning` as in `TurnStarted`."""
    placed: Callable[[float, Decision], None] = lambda since, decision: None
    """Called with each decision, and when it was begun."""
    lost_worker_wait_s: float = 0.0
    """How long a turn that has lost its worker waits for one that can take it."""
    tokenizer: TokenBytes | None = None
    starts_in_reasoning: bool = False
    parsers: ParserNames = AUTO
    """How to read the answer."""
