"""`python -m tests.deploy.on_ray`: a Ray cluster of a head and three nodes, with a token; a turn, a
node killed under a turn, and a node added. Prints one JSON object of what it saw.

A process of its own, because a process can be in one Ray cluster only.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as RayNodes

from segue.api.cluster.status import ClusterStatus, WorkerHealth
from segue.api.turn import TokenDelta, TurnEnd, TurnStarted
from segue.api.types import SamplingParams, StopConditions, TextInput
from segue.config import read_file
from segue.launch.cluster import Cluster, running_cluster
from segue.launch.config import Config
from segue.sdk.client import Client

SETTINGS = Path(__file__).parents[2] / "deploy" / "ray" / "segue.toml"
PATIENCE_S = 120.0
NUM_TOKENS = 120
# A worker outlives its raylet by a second or two.
LONG_TOKENS = 1_000


def config_at(address: str) -> Config:
    """As deployed, but on loopback, since all nodes are on one machine."""
    config = Config.from_sections(read_file(SETTINGS))
    cluster = replace(
        config.cluster,
        ray_address=address,
        worker_host="127.0.0.1",
        one_worker_per_node=False,
        prefill_port=0,
        prefill_metrics_port=0,
        decode_port=0,
        decode_metrics_port=0,
        http=False,
    )
    return replace(
        config,
        cluster=cluster,
        router=replace(config.router, host="127.0.0.1", port=0, metrics_port=0, drain_s=5.0),
        engine=replace(config.engine, num_threads=1, cache_bytes=64 << 20, max_running=4),
    )


def node_of(actor: Any) -> str:
    node: str = ray.get(
        actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())
    )
    return node


async def turn(client: Client, kill: Any = None, nodes: dict[str, str] | None = None) -> TurnEnd:
    """Runs a turn of many tokens. `kill` gets the node of its decode worker in mid-answer."""
    num, where = 0, ""
    stop = StopConditions(max_tokens=LONG_TOKENS, ignore_eos=True)
    async for event in client.stream(
        TextInput("1, 2, 3,"), sampling=SamplingParams(temperature=0.0), stop=stop
    ):
        if isinstance(event, TurnStarted):
            where = event.decode_worker
        elif isinstance(event, TokenDelta):
            num += len(event.token_ids)
            if kill is not None and nodes is not None and num > 10:
                await asyncio.to_thread(kill, nodes[where])
                kill = None
        elif isinstance(event, TurnEnd):
            return event
    raise AssertionError("a turn ends with TurnEnd")


async def text_of(client: Client) -> str:
    stop = StopConditions(max_tokens=NUM_TOKENS, ignore_eos=True)
    answer = await client.generate(
        TextInput("1, 2, 3,"), sampling=SamplingParams(temperature=0.0), stop=stop
    )
    return answer.text


async def when_ready(client: Client, names: set[str]) -> ClusterStatus:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status = await client.status()
            ready = {w.worker_id for w in status.workers if w.health is WorkerHealth.READY}
            if ready == names:
                return status
            await asyncio.sleep(0.2)


async def watch(cluster: Cluster, nodes: RayNodes, by_id: dict[str, Any]) -> dict[str, Any]:
    placed = {name: node_of(worker.actor) for name, worker in cluster.workers.items()}
    seen: dict[str, Any] = {"nodes": placed, "router": node_of(cluster.router)}

    def kill(node_id: str) -> None:
        nodes.remove_node(by_id[node_id], allow_graceful=False)

    async with Client(cluster.address) as client:
        seen["text"] = await text_of(client)
        end = await turn(client, kill, placed)
        seen["resumed"], seen["tokens"] = end.usage.resumed, end.usage.completion_tokens
        assert end.usage.resumed, "the worker died while it answered"
        (left,) = {"decode-0", "decode-1"} & {end.decode_worker}
        seen["survivor"] = left
        await when_ready(client, {"prefill-0", left})
        seen["text_without_it"] = await text_of(client)
        started_at = time.monotonic()
        nodes.add_node(num_cpus=0, resources={"segue_decode": 1})
        await when_ready(client, set(cluster.workers))
        seen["back_after_s"] = time.monotonic() - started_at
        seen["text_after"] = await text_of(client)
    return seen


def main() -> None:
    head = {"num_cpus": 0, "resources": {"segue_launcher": 1}, "include_dashboard": False}
    nodes = RayNodes(initialize_head=True, head_node_args=head)
    try:
        for name in ("segue_prefill", "segue_decode", "segue_decode"):
            nodes.add_node(num_cpus=0, resources={name: 1})
        by_id = {node.node_id: node for node in nodes.list_all_nodes()}
        with running_cluster(config_at(nodes.address), lambda stage: None) as cluster:
            seen = asyncio.run(watch(cluster, nodes, by_id))
        print(json.dumps(seen))  # noqa: T201
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    main()
