"""Where new sessions settle on an idle cluster if many of them share a prefix.

Drives the router's own `Placing`, turn by turn, with workers that answer at once. Their speeds are
equal, but the measured speeds differ slightly, as on a real machine.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from benchmarks.harness.turns import turn_of
from router.config import RouterConfig
from router.metrics import RouterMetrics
from router.placement.placing import Placing
from router.sessions.table import SessionTable
from segue.api.cluster.status import UnitCounts, WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.turn import FinishReason, ShipReport, TurnResult, Usage
from segue.api.types import Epoch, Role, WorkerId

_PAGE_TOKENS = 16
_SHARED_TOKENS = 4_096
_MORE_TOKENS = 512
_ANSWER_TOKENS = 100
_NUM_KINDS = 3
"""Kinds of agents; each has its own system message."""
_TURNS = 3
_SECONDS_PER_TOKEN = 1e-4
_SECONDS_PER_STEP = 0.01
_NOISE = 0.1
_PAGES = UnitCounts(total=100_000, free=100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    num_decodes: int
    num_sessions: int
    busiest_share: float
    """The share of sessions on the busiest decode worker; `even_share` is the minimum."""
    even_share: float
    shared_prefix_hit_rate: float
    """The share of first turns placed on their shared prefix's state, if it had been computed."""
    stay_rate: float
    """The share of later turns on the previous turn's decode worker."""


def measure_spread(num_decodes: int, num_sessions: int, seed: int = 0) -> Spread:
    draw = random.Random(seed)
    table = SessionTable(max_sessions=num_sessions, history_bytes=0)
    placing = Placing(RouterConfig(), table, RouterMetrics(), clock=lambda: 0.0)
    for role in Role:
        for number in range(num_decodes):
            placing.update_worker(_worker(WorkerId(f"{role}-{number}"), role))
    homes: Counter[WorkerId] = Counter()
    computed: dict[int, set[WorkerId]] = {}
    hits = reusable = stays = 0
    for session in range(num_sessions):
        kind = draw.randrange(_NUM_KINDS)
        prefill, home = _turn(placing, session, kind, 0, draw)
        homes[home] += 1
        if kind in computed:
            reusable += 1
            hits += prefill in computed[kind]
        computed.setdefault(kind, set()).add(prefill)
        for turn in range(1, _TURNS):
            _, decode = _turn(placing, session, kind, turn, draw)
            stays += decode == home
    return Spread(
        num_decodes=num_decodes,
        num_sessions=num_sessions,
        busiest_share=max(homes.values()) / num_sessions,
        even_share=1 / num_decodes,
        shared_prefix_hit_rate=hits / reusable,
        stay_rate=stays / (num_sessions * (_TURNS - 1)),
    )


def _turn(
    placing: Placing, session: int, kind: int, number: int, draw: random.Random
) -> tuple[WorkerId, WorkerId]:
    """Runs one turn from placement to end; returns its workers."""
    own_tokens = _MORE_TOKENS * (number + 1)
    spec = turn_of(
        f"{session}/{number}",
        (kind,) * _SHARED_TOKENS + (_NUM_KINDS + session,) * own_tokens,
        max_tokens=_ANSWER_TOKENS,
        session_id=str(session),
        branch_points=(_SHARED_TOKENS,),
    )
    turn = placing.turn(spec)
    placement = turn.place(()).placement
    turn.first_token()
    computed_tokens = _MORE_TOKENS if number else own_tokens
    kept_tokens = len(spec.context) // _PAGE_TOKENS * _PAGE_TOKENS
    noise = draw.lognormvariate(0.0, _NOISE)
    turn.ended(
        TurnResult(
            finish_reason=FinishReason.STOP,
            usage=Usage(completion_tokens=_ANSWER_TOKENS),
            report=ShipReport(
                computed_tokens=computed_tokens,
                prefill_s=computed_tokens * _SECONDS_PER_TOKEN * noise,
                shipped_bytes=computed_tokens << 14,
                transfer_s=0.005 * noise,
                exposed_transfer_s=0.002 * noise,
                kept_tokens=kept_tokens,
            ),
            decode_s=_ANSWER_TOKENS * _SECONDS_PER_STEP * noise,
            kept_tokens=kept_tokens,
            kept_checkpoint_tokens=kept_tokens,
        )
    )
    turn.leave()
    return placement.prefill.worker_id, placement.decode.worker_id


def _worker(worker_id: WorkerId, role: Role) -> WorkerStatus:
    return WorkerStatus(
        worker_id=worker_id,
        role=role,
        epoch=Epoch(1),
        address=f"at {worker_id}",
        health=WorkerHealth.READY,
        load=WorkerLoad(pages=_PAGES, page_tokens=_PAGE_TOKENS),
    )
