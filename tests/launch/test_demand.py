"""The resources that processes request from Ray, and whether a cluster has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from decode_worker.config import DecodeConfig
from segue.api.errors import InvalidConfig
from segue.api.types import Role
from segue.engine.config import EngineConfig
from segue.launch.config import ClusterConfig, Config, Pin
from segue.launch.ray.demand import Demand, NodeRoom, demands_of, shortage

CUDA = EngineConfig(device="cuda")


def config_of(engine: EngineConfig = CUDA, **cluster: Any) -> Config:
    return Config(cluster=ClusterConfig(**cluster), engine=engine)


def room(labels: Mapping[str, str] | None = None, **resources: float) -> NodeRoom:
    return NodeRoom.of(resources, labels or {})


def missing(config: Config, *nodes: NodeRoom, in_use: Mapping[str, float] | None = None) -> str:
    available: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.amounts.items():
            available[name] = available.get(name, 0.0) + amount
    for name, amount in (in_use or {}).items():
        available[name] -= amount
    return shortage(demands_of(config), nodes, available)


def test_each_worker_requests_a_gpu_and_the_router_none() -> None:
    demands = demands_of(config_of(prefill=1, decode=2))

    assert [(d.process, d.options()) for d in demands] == [
        ("router", {"num_cpus": 0.0, "num_gpus": 0.0}),
        ("prefill-0", {"num_cpus": 0.0, "num_gpus": 1.0}),
        ("decode-0", {"num_cpus": 0.0, "num_gpus": 1.0}),
        ("decode-1", {"num_cpus": 0.0, "num_gpus": 1.0}),
    ]


def test_without_gpus_no_process_requests_one() -> None:
    config = config_of(EngineConfig(), gpus_per_prefill=0.5)

    assert all(demand.gpus == 0.0 for demand in demands_of(config))
    assert missing(config, room()) == ""


def test_two_requested_gpus_do_not_fit_a_cluster_with_one() -> None:
    assert missing(config_of(), room(GPU=1.0, CPU=8.0)) == (
        "it needs 2 GPU, but the Ray cluster has 1 GPU on 1 node"
    )
    assert missing(config_of(), room(CPU=8.0)) == (
        "it needs 2 GPU, but the Ray cluster has 0 GPU on 1 node"
    )


def test_a_prefill_and_a_decode_worker_share_a_gpu() -> None:
    halves = {"gpus_per_prefill": 0.5, "gpus_per_decode": 0.5}

    assert missing(config_of(**halves), room(GPU=1.0)) == ""
    assert "needs 1.5 GPU" in missing(config_of(**halves, decode=2), room(GPU=1.0))


def test_a_part_of_a_gpu_must_fit_on_one_gpu() -> None:
    """Two of 0.6 and two of 0.4 need two GPUs. Three of 0.6 do not fit two, though 1.8 is
    below 2.
    """
    parts = {"gpus_per_prefill": 0.6, "gpus_per_decode": 0.4}

    assert missing(config_of(**parts, prefill=2, decode=2), room(GPU=2.0)) == ""
    assert missing(config_of(**parts, prefill=3, decode=1), room(GPU=3.0)) == ""
    assert missing(
        config_of(gpus_per_prefill=0.6, gpus_per_decode=0.6, prefill=2), room(GPU=2.0)
    ) == (
        "decode-0 asks for 0.6 GPU, but no node has that left after the others; the Ray cluster "
        "has 1 node"
    )


def test_cpus_count_if_workers_request_them() -> None:
    config = config_of(EngineConfig(), cpus_per_worker=4.0, decode=2)

    assert missing(config, room(CPU=8.0), room(CPU=4.0)) == ""
    assert missing(config, room(CPU=8.0)) == (
        "it needs 12 CPU, but the Ray cluster has 8 CPU on 1 node"
    )
    assert missing(config, room(CPU=3.0), room(CPU=9.0)) == (
        "decode-1 asks for 4 CPU, but no node has that left after the others; the Ray cluster has "
        "2 nodes"
    )


def test_resources_in_use_by_others_are_not_available() -> None:
    assert missing(config_of(), room(GPU=2.0), in_use={"GPU": 1.0}) == (
        "it needs 2 GPU, but of the Ray cluster's 2 GPU only 1 GPU is not in use"
    )


def test_roles_are_pinned_to_labels_and_resources() -> None:
    config = config_of(
        prefill_on="label:zone=a",
        decode_on="label:ray.io/accelerator-type=H200, resource:rack1=0.5",
    )
    _, prefill, decode = demands_of(config)
    a, b = room({"zone": "a"}, GPU=1.0), room({"zone": "b"}, GPU=1.0)
    h200 = room({"zone": "b", "ray.io/accelerator-type": "H200"}, GPU=1.0, rack1=1.0)

    assert prefill.options()["label_selector"] == {"zone": "a"}
    assert decode.options()["label_selector"] == {"ray.io/accelerator-type": "H200"}
    assert decode.options()["resources"] == {"rack1": 0.5}
    assert missing(config, a, b) == (
        "it needs 0.5 rack1, but the Ray cluster has 0 rack1 on 2 nodes"
    )
    assert missing(config, b, h200).startswith(
        "prefill-0 asks for 1 GPU on a node with label zone=a, but no node has that"
    )
    h200 = room({"zone": "b", "ray.io/accelerator-type": "H200"}, GPU=1.0, rack1=1.0)
    assert missing(config, a, h200) == ""


def test_unpinned_processes_do_not_take_the_place_of_pinned_ones() -> None:
    """The decode worker is placed first, otherwise the prefill worker would take its node."""
    config = config_of(decode_on="label:zone=a")

    assert missing(config, room({"zone": "a"}, GPU=1.0), room({"zone": "b"}, GPU=1.0)) == ""


@pytest.mark.parametrize(
    "text",
    ["zone=a", "label:zone", "label:=a", "resource:rack1=much", "resource:rack1=-1", "rack:x=1"],
)
def test_an_invalid_pin_is_refused_with_the_valid_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"router_on must list label:NAME=VALUE.*got") as refused:
        ClusterConfig(router_on=text)

    assert text in str(refused.value)


def test_an_empty_pin_allows_every_node() -> None:
    assert Pin.parse("") == Pin.parse(" , ") == Pin()
    assert Demand().options() == {"num_cpus": 0.0, "num_gpus": 0.0}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("gpus_per_decode", 0.0, "gpus_per_decode must be in"),
        ("gpus_per_prefill", 2.0, "gpus_per_prefill must be in"),
        ("cpus_per_worker", -1.0, "cpus_per_worker must be >= 0"),
        ("decode_port", 65_535, "decode_port must be 0, or leave 2 ports below 65536"),
        ("prefill_metrics_port", -5, "prefill_metrics_port must be 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterConfig(**{"decode": 2, setting: value})  # type: ignore[arg-type]  # a test's options


def test_a_worker_of_two_ranks_requests_two_whole_gpus_of_one_node() -> None:
    config = config_of(EngineConfig(device="cuda", tensor_parallel=2), cpus_per_worker=3.0)

    assert [(d.cpus, d.gpus) for d in demands_of(config)] == [(0.0, 0.0), (6.0, 2.0), (6.0, 2.0)]
    assert missing(config, room(GPU=4.0, CPU=12.0)) == ""
    assert missing(config, room(GPU=2.0, CPU=6.0), room(GPU=2.0, CPU=6.0)) == ""
    assert "no node has that left" in missing(
        config, room(GPU=3.0, CPU=6.0), room(GPU=1.0, CPU=6.0)
    )


def test_each_role_may_have_ranks_of_its_own() -> None:
    config = Config(
        cluster=ClusterConfig(prefill=2),
        engine=EngineConfig(device="cuda", tensor_parallel=4, expert_parallel=2),
        decode=DecodeConfig(tensor_parallel=1),
    )

    assert [d.gpus for d in demands_of(config)] == [0.0, 4.0, 4.0, 1.0]
    assert config.num_worker_processes == 9
    assert {role: e.expert_parallel for role, e in config.engines.items()} == {
        Role.PREFILL: 2,
        Role.DECODE: 1,
    }


@pytest.mark.parametrize(
    ("engine", "cluster", "reason"),
    [
        (
            {"device": "cuda", "tensor_parallel": 2},
            {"gpus_per_prefill": 0.5},
            "gpus_per_prefill must be 1 with tensor_parallel = 2, got 0.5",
        ),
        (
            {"tensor_parallel": 3, "expert_parallel": 2},
            {},
            r"tensor_parallel = 3 must be a multiple of \[engine\] expert_parallel = 2",
        ),
    ],
)
def test_ranks_that_cannot_be_are_refused(
    engine: dict[str, Any], cluster: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        config_of(EngineConfig(**engine), **cluster)
