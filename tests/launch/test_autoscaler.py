"""The request to Ray's autoscaler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import RaySystemError

from segue.api.errors import Unavailable
from segue.launch.config import ClusterConfig, Config
from segue.launch.ray.demand import Demand, demands_of
from segue.launch.ray.room import NodeRequest


@dataclass
class Autoscaler:
    """Keeps the last request, as Ray does."""

    kept: dict[str, Any] = field(default_factory=dict)
    is_away: bool = False

    def request(self, **options: Any) -> None:
        if self.is_away:
            raise RaySystemError("no answer for 10 s")
        self.kept = options


def cluster(**settings: Any) -> list[Demand]:
    return demands_of(Config(cluster=ClusterConfig(**settings)))


def test_all_processes_are_asked_for_with_the_labels_of_their_nodes() -> None:
    autoscaler = Autoscaler()
    demands = cluster(
        prefill=2,
        prefill_on="resource:segue_prefill=1",
        decode_on="label:rack=a",
        cpus_per_worker=2,
    )
    NodeRequest(autoscaler.request).ask(demands)

    assert autoscaler.kept == {
        "bundles": [{"CPU": 2.0, "segue_prefill": 1.0}] * 2 + [{"CPU": 2.0}],
        "bundle_label_selectors": [{}, {}, {"rack": "a"}],
    }


def test_workers_that_fit_everywhere_need_no_node() -> None:
    autoscaler = Autoscaler()
    NodeRequest(autoscaler.request).ask(cluster(prefill=2, decode=3))

    assert autoscaler.kept == {"bundles": []}


def test_only_an_own_request_is_withdrawn() -> None:
    autoscaler = Autoscaler(kept={"bundles": [{"CPU": 1}]})
    nodes = NodeRequest(autoscaler.request)
    nodes.withdraw()
    assert autoscaler.kept == {"bundles": [{"CPU": 1}]}, "another process's request"

    nodes.ask(cluster(cpus_per_worker=1))
    nodes.withdraw()
    assert autoscaler.kept == {"bundles": []}


def test_a_ray_that_does_not_answer_is_an_error_of_the_order_and_none_at_the_end() -> None:
    autoscaler = Autoscaler()
    nodes = NodeRequest(autoscaler.request)
    nodes.ask(cluster(cpus_per_worker=1))
    autoscaler.is_away = True

    with pytest.raises(
        Unavailable, match=r"cannot request nodes from Ray.s autoscaler: .*no answer"
    ):
        nodes.ask(cluster(cpus_per_worker=2))
    nodes.withdraw()
