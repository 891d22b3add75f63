"""Where the ranks of a worker go: which bundles, on one node or on several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from segue.api.types import Role
from segue.engine.config import EngineConfig
from segue.launch.config import ClusterConfig, Config, Pin
from segue.launch.ray.demand import (
    Demand,
    NodeRoom,
    bundles_for,
    misfit,
    shortage,
    strategy_of,
    worker_demand,
)
from segue.launch.ray.room import bundles_of


def ranks(count: int, *, pin: str = "", index: int = 0, **settings: float) -> Demand:
    """A worker of `count` ranks, each with a GPU of its own."""
    config = Config(
        cluster=ClusterConfig(decode_on=pin, **settings),  # type: ignore[arg-type]  # a test's
        engine=EngineConfig(device="cuda", tensor_parallel=count),
    )
    return dataclasses.replace(worker_demand(config, Role.DECODE, index), index=index)


def nodes(*gpus: float, **resources: float) -> list[NodeRoom]:
    return [NodeRoom.of({"GPU": number, **resources}, {}) for number in gpus]


def available(of: Sequence[NodeRoom]) -> Mapping[str, float]:
    names = {name for node in of for name in node.amounts}
    return {name: sum(node.amounts.get(name, 0.0) for node in of) for name in names}


@pytest.mark.parametrize(
    ("count", "gpus", "strategy"),
    [
        (1, (1,), "STRICT_PACK"),
        (8, (8,), "STRICT_PACK"),
        (8, (4, 8), "STRICT_PACK"),
        (8, (4, 4), "PACK"),
        (16, (8, 8), "PACK"),
        # Nodes that Ray may add are not known yet: it packs the ranks as well as they permit.
        (8, (), "PACK"),
        (1, (), "STRICT_PACK"),
    ],
)
def test_a_worker_spans_nodes_only_if_no_node_could_hold_it(
    count: int, gpus: tuple[int, ...], strategy: str
) -> None:
    assert strategy_of(ranks(count), nodes(*gpus)) == strategy


@pytest.mark.parametrize(
    ("workers", "free", "whole", "fits"),
    [
        # 397B: two workers of sixteen on four nodes of eight.
        ((16, 16), (8, 8, 8, 8), None, True),
        ((16, 16), (8, 8, 8, 7), None, False),
        ((16,), (8, 7, 1), None, True),
        # A node could hold it, and is waited for rather than that ranks are spread.
        ((8,), (4, 4), (8, 4), False),
        ((8,), (4, 4), (4, 4), True),
        ((8, 8), (8, 4, 4), None, False),
        # The large ones first, whatever their order.
        ((2, 6), (6, 2), None, True),
        ((2, 2, 4), (6, 2), None, True),
        # Ranks need whole GPUs.
        ((2,), (1.5, 0.5), None, False),
    ],
)
def test_the_ranks_of_all_workers_must_have_room(
    workers: tuple[int, ...],
    free: tuple[float, ...],
    whole: tuple[float, ...] | None,
    fits: bool,
) -> None:
    demands = [ranks(count, index=index) for index, count in enumerate(workers)]
    all_nodes = None if whole is None else nodes(*whole)

    assert (misfit(demands, nodes(*free), all_nodes) is None) is fits


def test_a_refusal_says_whether_one_node_or_several_would_do() -> None:
    spread, packed = nodes(8, 7), nodes(8, 4, 4)
    assert shortage([ranks(15), ranks(1, index=1)], spread, available(spread)) == (
        "it needs 16 GPU, but the Ray cluster has 15 GPU on 2 nodes"
    )
    pair = [ranks(8), ranks(8, index=1)]
    assert shortage(pair, packed, available(packed)) == (
        "decode-1 asks for 8 GPU, 8 ranks, but no node has that left after the others; the Ray "
        "cluster has 3 nodes"
    )
    odd = [NodeRoom.of({"GPU": 7, "CPU": 8}, {}), NodeRoom.of({"GPU": 1}, {})]
    assert "but the nodes have not that left" in shortage(
        [ranks(8, cpus_per_worker=1)], odd, available(odd)
    )


@pytest.mark.parametrize(
    ("demand", "amounts"),
    [
        (ranks(2, cpus_per_worker=4), {"CPU": 4.0, "GPU": 1.0}),
        (ranks(8, pin="resource:pods=2"), {"GPU": 1.0, "pods": 0.25}),
        # Seven parts must not exceed the whole, which is all that a node has.
        (ranks(7, pin="resource:pods=1"), {"GPU": 1.0, "pods": 0.1428}),
        (ranks(8, pin="resource:pods=0.0001"), {"GPU": 1.0, "pods": 0.0001}),
    ],
)
def test_each_rank_asks_for_its_part(demand: Demand, amounts: dict[str, float]) -> None:
    bundles = bundles_for(demand, "PACK")

    assert bundles["bundles"] == [amounts] * demand.num_ranks
    assert bundles["bundle_label_selector"] is None
    if "pods" in amounts and demand.pin.resources["pods"] >= 0.001:
        assert amounts["pods"] * demand.num_ranks <= demand.pin.resources["pods"]


def test_ranks_keep_to_the_labels_of_their_worker() -> None:
    bundles = bundles_for(ranks(2, pin="label:rack=a"), "STRICT_PACK")

    assert bundles["bundle_label_selector"] == [{"rack": "a"}] * 2


def test_a_rank_that_asks_for_nothing_still_has_a_bundle() -> None:
    demand = Demand(role=Role.DECODE, num_ranks=2, pin=Pin())

    assert bundles_for(demand, "STRICT_PACK")["bundles"] == [{"memory": 1.0}] * 2


@pytest.mark.parametrize(
    ("gpus", "bundles"),
    [
        ((8,), [{"GPU": 8.0}]),
        ((4, 4), [{"GPU": 1.0}] * 8),
        ((), [{"GPU": 1.0}] * 8),
    ],
)
def test_rays_autoscaler_is_asked_for_what_its_nodes_can_hold(
    gpus: tuple[int, ...], bundles: list[dict[str, float]]
) -> None:
    one = Demand(role=Role.PREFILL, gpus=1.0)

    assert bundles_of([one, ranks(8)], nodes(*gpus))[0] == [{"GPU": 1.0}, *bundles]
