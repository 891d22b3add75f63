"""Three workers of each role, and the placement of a turn among them."""

from __future__ import annotations

from collections.abc import Mapping

from router.placement.cluster import ClusterModel
from router.placement.coefficients import PRIOR, Coefficients
from router.placement.estimate import Decision
from router.placement.policy import place
from router.placement.side import Held, Rules, TurnSize
from segue.api.cluster.status import UnitCounts, WorkerHealth, WorkerLoad, WorkerStatus
from segue.api.types import Epoch, Role, WorkerId
from segue.cost_line import prior_line

NAMES = ["prefill-0", "prefill-1", "prefill-2", "decode-0", "decode-1", "decode-2"]
SLOW_LINK = PRIOR._replace(pooled=PRIOR.pooled._replace(link=prior_line(0.001, 1e-7)))
TURN = TurnSize(prompt_tokens=50_000, max_tokens=512)
RULES = Rules(page_tokens=64)


def worker(
    name: str,
    *,
    queued: int = 0,
    running: int = 0,
    free: int = 10_000,
    total: int = 10_000,
    health: WorkerHealth = WorkerHealth.READY,
    epoch: int = 1,
    uptime_s: float = 0.0,
    page_tokens: int = 16,
) -> WorkerStatus:
    return WorkerStatus(
        worker_id=WorkerId(name),
        role=Role(name.split("-")[0]),
        epoch=Epoch(epoch),
        address=f"at {name}",
        health=health,
        uptime_s=uptime_s,
        load=WorkerLoad(
            running_turns=running,
            waiting_tokens=queued,
            pages=UnitCounts(total=total, free=min(free, total)),
            page_tokens=page_tokens,
        ),
    )


def cluster_of(*changed: WorkerStatus, coefficients: Coefficients = PRIOR) -> ClusterModel:
    """Three idle workers of each role, some of them changed."""
    cluster = ClusterModel(coefficients)
    for status in (*map(worker, NAMES), *changed):
        cluster.update_worker(status)
    return cluster


def known(held: Mapping[str, int]) -> dict[WorkerId, Held]:
    return {WorkerId(name): Held(tokens, tokens) for name, tokens in held.items()}


def decide(
    cluster: ClusterModel,
    held: Mapping[str, int] | None = None,
    *,
    turn: TurnSize = TURN,
    rules: Rules = RULES,
    avoid: tuple[str, ...] = (),
) -> Decision:
    return place(turn, cluster, known(held or {}), rules, avoid=[WorkerId(a) for a in avoid])


def where(decision: Decision) -> tuple[str, str, str]:
    return decision.chosen.prefill, decision.chosen.decode, decision.chosen.mode
