"""The placement group of a worker, and its actors in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from segue.launch.ray.demand import Demand, Strategy

_HARDLY_ANYTHING = {"memory": 1.0}
"""One byte: Ray takes no bundle that asks for nothing, and every node has some memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """What Ray is asked for, for the ranks of one worker."""

    amounts: Sequence[Mapping[str, float]]
    labels: Sequence[Mapping[str, str]] | None
    strategy: Strategy


def bundles_for(demand: Demand, strategy: Strategy) -> Bundles:
    """One bundle for each rank, all alike."""
    rank, count = demand.of_rank(), demand.num_ranks
    return Bundles(
        amounts=[rank.amounts or _HARDLY_ANYTHING] * count,
        labels=[dict(rank.pin.labels)] * count if rank.pin.labels else None,
        strategy=strategy,
    )


def placed(bundles: Bundles) -> PlacementGroup:
    """Does not wait for room. Ends with the launcher, if nothing ends it before."""
    return placement_group(
        [dict(amounts) for amounts in bundles.amounts],
        strategy=bundles.strategy,
        bundle_label_selector=[dict(labels) for labels in bundles.labels or ()] or None,
    )


def options_in(group: PlacementGroup, rank: int, demand: Demand) -> dict[str, Any]:
    """The options of a rank's actor. `demand`: of one rank. Its labels are the bundle's."""
    options = demand.options()
    options.pop("label_selector", None)
    return {
        **options,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank),
    }
