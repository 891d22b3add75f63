"""The router's placement with two workers of each role, and turns of one session."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from router.config import RouterConfig
from router.metrics import RouterMetrics
from router.placement.placing import Placing, TurnPlacing
from router.sessions.history import History
from router.sessions.table import SessionTable
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, ShipReport, TurnResult, TurnSpec, Usage
from segue.api.types import ChatInput, Sampling, SessionId, StopRules, TurnId, WorkerId
from tests.router import small_cluster

NAMES = ["prefill-0", "prefill-1", "decode-0", "decode-1"]
AGENT = SessionId("agent")
worker = functools.partial(small_cluster.worker, page_tokens=64)


class ManualClock:
    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def placing_of(clock: ManualClock, metrics: RouterMetrics | None = None, **options: int) -> Placing:
    """Making metrics takes milliseconds: pass some to make thousands of placements."""
    config = RouterConfig(**{"local_prefill_max_tokens": 0, **options})  # type: ignore[arg-type]  # a test's options
    table = SessionTable(max_sessions=100, history_bytes=1 << 20)
    placing = Placing(config, table, metrics or RouterMetrics(), clock=clock)
    for name in NAMES:
        placing.update_worker(worker(name))
    return placing


def spec(prompt_tokens: int = 6_400, session_id: SessionId = AGENT) -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId("t"),
        session_id=session_id,
        context=Prompt((7,) * prompt_tokens),
        sampling=Sampling(),
        stop=StopRules(max_tokens=64),
    )


def history_of(num_tokens: int) -> History:
    """A last turn that equals the start of every `spec`."""
    return History(chat=ChatInput(messages=()), digests=(), tokens=Prompt([7] * num_tokens))


def result(kept: int = 0, **report: float) -> TurnResult:
    return TurnResult(
        finish_reason=FinishReason.STOP,
        usage=Usage(completion_tokens=20),
        report=ShipReport(**report),  # type: ignore[arg-type]  # a test's options
        decode_s=0.2,
        kept_tokens=kept,
        kept_checkpoint_tokens=kept,
    )


def serve(placing: Placing, *, kept: int = 6_400, prefill_kept: int = 6_400) -> TurnPlacing:
    """Runs one turn of the session, from its placement to its end."""
    turn = placing.turn(spec())
    turn.place(())
    turn.reserved(0, 0)
    turn.first_token()
    turn.ended(
        result(
            kept,
            computed_tokens=6_400,
            prefill_s=1.0,
            shipped_bytes=10_000_000,
            transfer_s=0.01,
            kept_tokens=prefill_kept,
        )
    )
    turn.leave()
    return turn


def seats(placing: Placing) -> dict[str, tuple[int, int, int]]:
    return {
        name: (node.own_turns, node.own_prefills, node.own_tokens)
        for name, node in placing.cluster.nodes.items()
        if node.own_turns or node.own_prefills or node.own_tokens
    }


def held(placing: Placing) -> Mapping[WorkerId, tuple[int, int]]:
    return dict(placing.table.of(AGENT).held(placing.cluster.nodes))
