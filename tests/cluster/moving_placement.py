"""Placements for tests: sessions move every turn, or nothing is pulled."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from prefill_worker.pull import PullEstimate
from router.placement.cluster import ClusterModel
from router.placement.estimate import Candidate, Decision, Mode, Placement
from router.placement.policy import place
from router.placement.side import Residency, Rules, TurnSize
from segue.api.types import WorkerId


def moving_place(
    turn: TurnSize,
    cluster: ClusterModel,
    residency: Residency,
    rules: Rules,
    *,
    avoid: Collection[WorkerId] = (),
    is_new: bool = False,
) -> Decision:
    """The router's placement, restricted to the best candidate on workers that did not serve the
    session last. Prefixes are pulled from these if a pull was a candidate.
    """
    decision = place(turn, cluster, residency, rules, avoid=avoid, is_new=is_new)
    # The last worker of each role that served the session comes first.
    last = {cluster.nodes[worker].status.role: worker for worker in reversed(residency)}.values()
    moved = [c for c in decision.candidates if c.prefill not in last and c.decode not in last]
    if not moved:
        return decision
    chosen = min(moved, key=lambda c: (c.mode is not Mode.PULL, c.total_s))
    return instead(decision, chosen, cluster)


def place_without_pulls(
    turn: TurnSize,
    cluster: ClusterModel,
    residency: Residency,
    rules: Rules,
    *,
    avoid: Collection[WorkerId] = (),
    is_new: bool = False,
) -> Decision:
    """The router's placement without pulls: whether one pays depends on the machine's load."""
    decision = place(turn, cluster, residency, rules, avoid=avoid, is_new=is_new)
    chosen = next(c for c in decision.ranked() if c.mode is not Mode.PULL)
    return instead(decision, chosen, cluster)


def place_with_pulls(
    turn: TurnSize,
    cluster: ClusterModel,
    residency: Residency,
    rules: Rules,
    *,
    avoid: Collection[WorkerId] = (),
    is_new: bool = False,
) -> Decision:
    """The router's placement, with a pull where one is possible."""
    decision = place(turn, cluster, residency, rules, avoid=avoid, is_new=is_new)
    pulls = [c for c in decision.candidates if c.mode is Mode.PULL]
    if not pulls:
        return decision
    return instead(decision, min(pulls, key=lambda c: c.total_s), cluster)


def instead(decision: Decision, chosen: Candidate, cluster: ClusterModel) -> Decision:
    placement = Placement(
        prefill=cluster.nodes[chosen.prefill].status, decode=cluster.nodes[chosen.decode].status
    )
    return decision._replace(placement=placement, chosen=chosen)


def pull_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes pulls always pay: otherwise it depends on the machine's load."""
    always = PullEstimate(compute_s=1.0, move_s=0.0)
    monkeypatch.setattr("prefill_worker.pull.estimate_pull", lambda *_, **__: always)
